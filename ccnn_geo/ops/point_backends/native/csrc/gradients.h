// Gradients of the parameters, computed from sums over the edges.
#pragma once

#include "network.h"
#include "schedule.h"

namespace ccnn_geo {

// Number of sums per filter: of the gradient of the exponent times 1, v and v^2, of the gradient of
// the angle times 1 and v, and of the gradient of the bias.
constexpr int64_t num_moments(int64_t dim) { return 3 * dim + 3; }

// The sums of one strand, or of all.
struct ParameterSums {
  template <typename T>
  explicit ParameterSums(const Problem<T>& problem)
      : moments(problem.layers * problem.width * num_moments(problem.dim)), window(problem.dim),
        weights((problem.layers - 1) * problem.width * round_up(problem.width, kLanes<T>)),
        readout(problem.readout ? (problem.width + 1) * problem.padded_channels : 0) {}

  void add(const ParameterSums& other) {
    add(other.moments, moments);
    add(other.window, window);
    add(other.weights, weights);
    add(other.readout, readout);
  }

  std::vector<double> moments;  // [L, H, num_moments]
  std::vector<double> window;   // [D], of the gradient of the window's exponent times v^2
  std::vector<double> weights;  // [L - 1, H, padded H]
  std::vector<double> readout;  // [H + 1, padded C]

 private:
  static void add(const std::vector<double>& from, std::vector<double>& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }
};

// The same sums of one block, with `moments` and `window` spread over the lanes.
template <typename T>
struct ParameterBlock {
  ParameterBlock(const Problem<T>& problem, Arena& arena)
      : ParameterBlock(ParameterSums(problem), arena) {}

  void move_to(ParameterSums& sums) {
    moments.move_to(sums.moments.data());
    window.move_to(sums.window.data());
    weights.move_to(sums.weights.data());
    readout.move_to(sums.readout.data());
  }

  BlockSums<T, kLanes<T>> moments, window;
  BlockSums<T> weights, readout;

 private:
  ParameterBlock(const ParameterSums& sizes, Arena& arena)
      : moments(sizes.moments.size(), arena), window(sizes.window.size(), arena),
        weights(sizes.weights.size(), arena), readout(sizes.readout.size(), arena) {}
};

// The gradients to compute; null where not requested.
template <typename T>
struct Gradients {
  explicit Gradients(const CcnnGeoGradients& from)
      : x(typed(from.x)), source(typed(from.source)), target(typed(from.target)),
        inverse_sigma(typed(from.inverse_sigma)), centers(typed(from.centers)),
        inverse_widths(typed(from.inverse_widths)), frequencies(typed(from.frequencies)),
        phases(typed(from.phases)), weights(typed(from.weights)), biases(typed(from.biases)),
        readout(typed(from.readout)) {}

  T *x, *source, *target, *inverse_sigma;
  T *centers, *inverse_widths, *frequencies, *phases, *weights, *biases, *readout;

 private:
  static T* typed(void* data) { return static_cast<T*>(data); }
};

// Computes the gradients of the parameters from sums over all edges.
template <typename T>
void write_parameter_gradients(
    const Problem<T>& problem, const ParameterSums& sums, const Gradients<T>& out) {
  const int64_t dim = problem.dim, width = problem.width;
  std::vector<double> window = sums.window;
  for (int64_t filter = 0; filter < problem.layers * width; ++filter) {
    const double* sum = sums.moments.data() + filter * num_moments(dim);
    const double exponent = sum[0], angle = sum[1];
    for (int64_t d = 0; d < dim; ++d) {
      const double linear = sum[3 + 3 * d], square = sum[4 + 3 * d];
      const double gamma = problem.inverse_widths[filter * dim + d];
      const double center = problem.centers[filter * dim + d];
      out.centers[filter * dim + d] = static_cast<T>(gamma * gamma * (linear - center * exponent));
      out.inverse_widths[filter * dim + d] =
          static_cast<T>(-gamma * (square - 2 * center * linear + center * center * exponent));
      out.frequencies[filter * dim + d] = static_cast<T>(sum[5 + 3 * d]);
      if (filter >= (problem.layers - 1) * width) window[d] += square;
    }
    out.phases[filter] = static_cast<T>(angle);
    if (filter >= width) out.biases[filter - width] = static_cast<T>(sum[2]);
  }
  for (int64_t d = 0; d < dim; ++d) {
    out.inverse_sigma[d] = static_cast<T>(-problem.inverse_sigma[d] * window[d]);
  }
  const int64_t padded = round_up(width, kLanes<T>);
  for (int64_t row = 0; row < (problem.layers - 1) * width; ++row) {
    for (int64_t h = 0; h < width; ++h) {
      out.weights[row * width + h] = static_cast<T>(sums.weights[row * padded + h]);
    }
  }
  for (int64_t c = 0; problem.readout && c < problem.channels; ++c) {
    for (int64_t h = 0; h <= width; ++h) {
      out.readout[c * (width + 1) + h] =
          static_cast<T>(sums.readout[h * problem.padded_channels + c]);
    }
  }
}

}  // namespace ccnn_geo
