// The typed operands of a call and the coefficients of its filters.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "magnet_conv.h"
#include "vector_math.h"

namespace ccnn_geo {

// Allocates memory that is aligned to cache lines and freed with the arena.
class Arena {
 public:
  template <typename T>
  T* take(int64_t size) {
    constexpr int64_t kAlignment = 64;
    const int64_t bytes = round_up(std::max<int64_t>(size, 1) * sizeof(T), kAlignment);
    void* piece = std::aligned_alloc(kAlignment, bytes);
    if (piece == nullptr) throw std::bad_alloc();
    pieces_.emplace_back(piece, &std::free);
    return static_cast<T*>(piece);
  }

  template <typename T>
  T* zeros(int64_t size) {
    T* piece = take<T>(size);
    std::fill_n(piece, size, T(0));
    return piece;
  }

 private:
  std::vector<std::unique_ptr<void, decltype(&std::free)>> pieces_;
};

template <typename T>
struct Problem {
  // Throws std::out_of_range if `pointer` or `degree` do not fit `index`.
  explicit Problem(const CcnnGeoCall& call)
      : sources(call.sources), targets(call.targets), dim(call.dim), channels(call.channels),
        layers(call.layers), width(call.width), slots(call.slots), degree(call.degree),
        threads(std::max<int64_t>(call.threads, 1)), buffer_bytes(call.buffer_bytes),
        padded_channels(round_up(call.channels, kLanes<T>)),
        padded_width(round_up(call.width + 1, kLanes<T>)),
        index(call.index), pointer(call.pointer), x(typed(call.x)), bounds(typed(call.bounds)),
        inverse_sigma(typed(call.inverse_sigma)), source(call.source), target(call.target),
        centers(typed(call.centers)),
        inverse_widths(typed(call.inverse_widths)), frequencies(typed(call.frequencies)),
        phases(typed(call.phases)), weights(typed(call.weights)), biases(typed(call.biases)),
        readout(typed(call.readout)) {
    bool valid = pointer || targets * degree <= slots;
    for (int64_t i = 0; pointer && i < targets; ++i) valid &= pointer[i] <= pointer[i + 1];
    valid = valid && (!pointer || (pointer[0] >= 0 && pointer[targets] <= slots));
    if (!valid) throw std::out_of_range("pointer");
  }

  int64_t first_slot(int64_t i) const { return pointer ? pointer[i] : i * degree; }

  int64_t sources, targets, dim, channels, layers, width, slots, degree, threads, buffer_bytes;
  int64_t padded_channels;  // C, rounded up to whole vectors
  int64_t padded_width;     // H + 1, rounded up to whole vectors
  const int64_t *index, *pointer;
  const T *x, *bounds, *inverse_sigma;
  const double *source, *target;
  const T *centers, *inverse_widths, *frequencies, *phases, *weights, *biases, *readout;

 private:
  static const T* typed(const void* data) { return static_cast<const T*>(data); }
};

// exp(-s / 2) = 2^(-s kHalfLog2E)
constexpr double kHalfLog2E = 0.72134752044448170368;

// The coefficients of the filters, arranged for the fewest operations per edge.
//
// Filter (l, h) is 2^-sum_d (scale_d v_d + shift_d)^2 sin(pi (phase + sum_d frequency_d v_d)): the
// envelope in powers of two, the angle in half turns. Squares of differences are not expanded,
// which would cancel for narrow filters.
template <typename T>
struct Filters {
  explicit Filters(const Problem<T>& problem)
      : stride(3 * problem.dim + 1),
        record(problem.layers * problem.width * stride),
        readout(problem.readout ? (problem.width + 1) * problem.padded_channels : 0) {
    constexpr double kPi = 3.14159265358979323846;
    const double to_base_two = std::sqrt(kHalfLog2E);
    const int64_t dim = problem.dim;
    for (int64_t filter = 0; filter < problem.layers * problem.width; ++filter) {
      T* out = &record[filter * stride];
      // Whole turns are dropped before rounding.
      *out++ = static_cast<T>(std::remainder(problem.phases[filter] / kPi, 2.0));
      for (int64_t d = 0; d < dim; ++d) {
        const double gamma = problem.inverse_widths[filter * dim + d];
        const double center = problem.centers[filter * dim + d];
        *out++ = static_cast<T>(problem.frequencies[filter * dim + d] / kPi);
        *out++ = static_cast<T>(to_base_two * gamma);
        *out++ = static_cast<T>(to_base_two * gamma * -center);
      }
    }
    for (int64_t c = 0; problem.readout && c < problem.channels; ++c) {
      for (int64_t h = 0; h <= problem.width; ++h) {
        readout[h * problem.padded_channels + c] = problem.readout[c * (problem.width + 1) + h];
      }
    }
  }

  int64_t stride;
  std::vector<T> record;   // [L, H, 1 + 3 D]: phase; then frequency, scale, shift of an axis
  std::vector<T> readout;  // [H + 1, padded C], the transposed readout
};

// Calls body(std::integral_constant<int, dim>()) for up to three dimensions and
// body(std::integral_constant<int, 0>()) for more.
template <typename Body>
auto with_dimension(int64_t dim, const Body& body) {
  switch (dim) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    default: return body(std::integral_constant<int, 0>());
  }
}

}  // namespace ccnn_geo
