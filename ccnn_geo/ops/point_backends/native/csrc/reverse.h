// Backpropagation through the kernel network, for the edges of one tile.
#pragma once

#include "gradients.h"

namespace ccnn_geo {

// Differentiates one layer of filters. On entry, `grad` is the gradient of the layer's output, [H,
// kTile]; on return, the gradient of the filters' factors. Adds the sums over edges to `moments`.
// With kOffset, adds the gradients of the offsets to `grad_offset`, [D, kTile], without the part of
// the window, and the sums of the gradients of all exponents to `grad_exponent`.
template <typename T, int kDim, bool kOffset>
void reverse_layer(
    const Problem<T>& problem, int64_t layer, const Layer<T>& kept, const T* offset, T* grad,
    T* moments, T* grad_offset, T* grad_exponent, int64_t vectors) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t dim = kDim ? kDim : problem.dim;
  for (int64_t h = 0; h < problem.width; ++h, moments += num_moments(dim) * lanes) {
    const int64_t filter = (layer * problem.width + h) * dim;
    const auto add = [&](int64_t moment, const Vec<T>& value) {
      T* place = moments + moment * lanes;
      (Vec<T>::loadu(place) + value).store(place);
    };
    constexpr int kHeld = kDim ? kDim : 1;
    Vec<T> sum[3 + 3 * kHeld];
    for (int64_t lane = 0; lane < vectors * lanes; lane += lanes) {
      const int64_t place = h * kTile<T> + lane;
      const Vec<T> upper = Vec<T>::loadu(grad + place);
      const Vec<T> exponent = upper * Vec<T>::loadu(kept.hidden + place);
      const Vec<T> angle = upper * Vec<T>::loadu(kept.slope + place);
      const Vec<T> linear = upper * Vec<T>::loadu(kept.gain + place);
      linear.store(grad + place);
      sum[0] = sum[0] + exponent;
      sum[1] = sum[1] + angle;
      sum[2] = sum[2] + linear;
      for (int64_t d = 0; d < dim; ++d) {
        const Vec<T> v = Vec<T>::loadu(offset + d * kTile<T> + lane);
        const Vec<T> product = exponent * v;
        if constexpr (kDim != 0) {
          sum[3 + 3 * d] = sum[3 + 3 * d] + product;
          sum[4 + 3 * d] = at::vec::fmadd(product, v, sum[4 + 3 * d]);
          sum[5 + 3 * d] = at::vec::fmadd(angle, v, sum[5 + 3 * d]);
        } else {
          add(3 + 3 * d, product);
          add(4 + 3 * d, product * v);
          add(5 + 3 * d, angle * v);
        }
        if constexpr (kOffset) {
          const T gamma = problem.inverse_widths[filter + d];
          const Vec<T> pull = Vec<T>(gamma * gamma) * (Vec<T>(problem.centers[filter + d]) - v);
          T* out = grad_offset + d * kTile<T> + lane;
          Vec<T> total = at::vec::fmadd(exponent, pull, Vec<T>::loadu(out));
          total = at::vec::fmadd(angle, Vec<T>(problem.frequencies[filter + d]), total);
          total.store(out);
        }
      }
      if constexpr (kOffset) {
        (Vec<T>::loadu(grad_exponent + lane) + exponent).store(grad_exponent + lane);
      }
    }
    for (int64_t m = 0; m < 3 + 3 * (kDim ? kDim : 0); ++m) add(m, sum[m]);
  }
}

// Backpropagates gradients of the features through the network. Every thread has one.
template <typename T>
class Reverse {
 public:
  Reverse(const Problem<T>& problem, bool needs_offset, Arena& arena)
      : grad_features(arena.zeros<T>((problem.width + 1) * kTile<T>)),
        grad_offset(needs_offset ? arena.zeros<T>(problem.dim * kTile<T>) : nullptr),
        sums(problem, arena), problem_(problem),
        padded_width_(round_up(problem.width, kLanes<T>)),
        scratch_(arena.zeros<T>(padded_width_ * kTile<T>)),
        transposed_(arena.zeros<T>(kTile<T> * padded_width_)),
        grad_exponent_(arena.zeros<T>(kTile<T>)) {}

  // Reads and overwrites `grad_features`, adds to `sums` and fills `grad_offset`.
  void run(const Tile<T>& tile, const Network<T>& network) {
    const int64_t vectors = tile.vectors(), width = problem_.width;
    T *grad = grad_features, *below = scratch_;
    if (grad_offset) {
      std::fill_n(grad_offset, problem_.dim * kTile<T>, T(0));
      std::fill_n(grad_exponent_, kTile<T>, T(0));
    }
    for (int64_t l = problem_.layers - 1; l >= 0; --l) {
      differentiate(l, tile, network, grad);
      if (l + 1 == problem_.layers) add_window(tile, network);
      if (l == 0) break;
      const T* weight = problem_.weights + (l - 1) * width * width;
      T* grad_weight = sums.weights.values + (l - 1) * width * padded_width_;
      transpose(
          network.layers[l - 1].hidden, kTile<T>, transposed_, padded_width_, padded_width_,
          vectors * kLanes<T>);
      gemm<T>(
          {grad, kTile<T>, 1}, {transposed_, padded_width_}, width, padded_width_ / kLanes<T>,
          tile.count, Add<T>{grad_weight, padded_width_});
      gemm<T>(
          {weight, 1, width}, {grad, kTile<T>}, width, vectors, width, Store<T>{below, kTile<T>});
      std::swap(grad, below);
    }
  }

  T* grad_features;  // [H + 1, kTile]
  T* grad_offset;    // [D, kTile] or null
  ParameterBlock<T> sums;

 private:
  void differentiate(int64_t l, const Tile<T>& tile, const Network<T>& network, T* grad) {
    const int64_t size = problem_.width * num_moments(problem_.dim) * kLanes<T>;
    with_dimension(problem_.dim, [&](auto dim) {
      const auto reverse =
          grad_offset ? reverse_layer<T, dim.value, true> : reverse_layer<T, dim.value, false>;
      reverse(
          problem_, l, network.layers[l], tile.offset, grad, sums.moments.values + l * size,
          grad_offset, grad_exponent_, tile.vectors());
    });
  }

  // The window is a factor of the last layer's filters and the last feature itself.
  void add_window(const Tile<T>& tile, const Network<T>& network) {
    const int64_t last = problem_.width * kTile<T>;
    for (int64_t lane = 0; lane < tile.vectors() * kLanes<T>; lane += kLanes<T>) {
      const Vec<T> exponent = Vec<T>::loadu(grad_features + last + lane) *
          Vec<T>::loadu(network.features + last + lane);
      for (int64_t d = 0; d < problem_.dim; ++d) {
        const Vec<T> v = Vec<T>::loadu(tile.offset + d * kTile<T> + lane);
        T* sum = sums.window.values + d * kLanes<T>;
        at::vec::fmadd(exponent * v, v, Vec<T>::loadu(sum)).store(sum);
        if (!grad_offset) continue;
        const T sigma = problem_.inverse_sigma[d];
        const Vec<T> both = exponent + Vec<T>::loadu(grad_exponent_ + lane);
        T* out = grad_offset + d * kTile<T> + lane;
        at::vec::fmadd(both * v, Vec<T>(-sigma * sigma), Vec<T>::loadu(out)).store(out);
      }
    }
  }

  const Problem<T>& problem_;
  int64_t padded_width_;
  T* scratch_;        // [padded H, kTile]
  T* transposed_;     // [kTile, padded H]
  T* grad_exponent_;  // [kTile]
};

}  // namespace ccnn_geo
