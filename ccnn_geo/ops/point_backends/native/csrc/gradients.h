// Gradients of the parameters: sums over the edges, and what becomes of them.
#pragma once

#include "network.h"
#include "schedule.h"

namespace ccnn_geo {

// Sums kept for every filter, each spread over the lanes: of the gradient of the exponent times
// 1, v, v^2; of the gradient of the angle times 1, v; and of the gradient of the bias.
constexpr int64_t num_moments(int64_t dim) { return 3 * dim + 3; }

// All parameter gradients of one thread.
template <typename T>
struct ParameterTotals {
  ParameterTotals(const Problem<T>& problem, Arena& arena)
      : moments(problem.layers * problem.width * num_moments(problem.dim) * kLanes<T>, arena),
        window(problem.dim * kLanes<T>, arena),
        weights((problem.layers - 1) * problem.width * round_up(problem.width, kLanes<T>), arena),
        readout(problem.readout ? (problem.width + 1) * problem.padded_channels : 0, arena) {}

  void count_tile() {
    moments.count_tile();
    window.count_tile();
    weights.count_tile();
    readout.count_tile();
  }

  void flush() {
    moments.flush();
    window.flush();
    weights.flush();
    readout.flush();
  }

  void merge(const ParameterTotals& other, int64_t share, int64_t shares) {
    moments.merge(other.moments, share, shares);
    window.merge(other.window, share, shares);
    weights.merge(other.weights, share, shares);
    readout.merge(other.readout, share, shares);
  }

  Total<T> moments;  // [L, H, num_moments, lanes]
  Total<T> window;   // [D, lanes], of the gradient of the window's exponent times v^2
  Total<T> weights;  // [L - 1, H, padded H]
  Total<T> readout;  // [H + 1, padded C]
};

// Gradients as backward fills them; null where not wanted.
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

// Turns sums over edges into gradients of the parameters, in double.
template <typename T>
void write_parameter_gradients(
    const Problem<T>& problem, const ParameterTotals<T>& totals, const Gradients<T>& out) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t dim = problem.dim, width = problem.width, moments = num_moments(dim);
  const auto lane_sum = [](const double* sums) {
    double sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += sums[lane];
    return sum;
  };
  std::vector<double> window(dim), sum(moments);
  for (int64_t d = 0; d < dim; ++d) window[d] = lane_sum(totals.window.sums + d * lanes);
  for (int64_t filter = 0; filter < problem.layers * width; ++filter) {
    for (int64_t m = 0; m < moments; ++m) {
      sum[m] = lane_sum(totals.moments.sums + (filter * moments + m) * lanes);
    }
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
  const int64_t padded = round_up(width, lanes);
  for (int64_t row = 0; row < (problem.layers - 1) * width; ++row) {
    for (int64_t h = 0; h < width; ++h) {
      out.weights[row * width + h] = static_cast<T>(totals.weights.sums[row * padded + h]);
    }
  }
  for (int64_t c = 0; problem.readout && c < problem.channels; ++c) {
    for (int64_t h = 0; h <= width; ++h) {
      out.readout[c * (width + 1) + h] =
          static_cast<T>(totals.readout.sums[h * problem.padded_channels + c]);
    }
  }
}

}  // namespace ccnn_geo
