// The kernel network on the edges of one tile. Arrays are [feature, kTile], with edges in the
// lanes.
#pragma once

#include "gemm.h"
#include "tile.h"

namespace ccnn_geo {

// The arrays of one layer, [H, kTile] each. In the forward pass there is `hidden` only.
template <typename T>
struct Layer {
  T* hidden;  // h_l
  T* gain;    // the filter's value, which is the derivative of h_l by the filter's factor
  T* slope;   // the derivative of h_l by the filter's angle
};

// The filters of one layer and their inputs.
template <typename T>
struct LayerInput {
  const T* record;  // the layer's part of Filters::record
  const T* offset;  // [D, kTile]
  const T* decay;   // [kTile], an exponent common to all filters (the window's), or null
  const T* linear;  // [H, kTile], the filters' factors without their biases, or null for ones
  const T* bias;    // [H]
};

// Evaluates one filter on `kVectors` vectors of edges, so that its coefficients are loaded once.
template <typename T, int kDim, bool kKeep, int kVectors>
inline void evaluate_filter(
    const LayerInput<T>& in, int64_t dim, int64_t h, int64_t lane, const Layer<T>& out) {
  const T* record = in.record + h * (1 + 3 * dim);
  Vec<T> angle[kVectors], exponent[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    angle[i] = Vec<T>(record[0]);
    exponent[i] = in.decay ? Vec<T>::loadu(in.decay + lane + i * kLanes<T>) : Vec<T>(T(0));
  }
  for (int64_t d = 0; d < (kDim ? kDim : dim); ++d) {
    const T* axis = record + 1 + 3 * d;
    const Vec<T> frequency(axis[0]), scale(axis[1]), shift(axis[2]);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const Vec<T> v = Vec<T>::loadu(in.offset + d * kTile<T> + lane + i * kLanes<T>);
      const Vec<T> scaled = at::vec::fmadd(scale, v, shift);
      angle[i] = at::vec::fmadd(frequency, v, angle[i]);
      exponent[i] = at::vec::fmadd(scaled, scaled, exponent[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    Wave<T> wave = damped_wave(exponent[i], angle[i]);
    const int64_t place = h * kTile<T> + lane + i * kLanes<T>;
    if (kKeep) wave.sine.store(out.gain + place);
    if (in.linear) {
      const Vec<T> factor = Vec<T>::loadu(in.linear + place) + Vec<T>(in.bias[h]);
      wave.sine = wave.sine * factor;
      wave.cosine = wave.cosine * factor;
    }
    wave.sine.store(out.hidden + place);
    if (kKeep) wave.cosine.store(out.slope + place);
  }
}

// Evaluates the filters of one layer and multiplies them by their factors.
template <typename T, int kDim, bool kKeep>
void evaluate_layer(
    const LayerInput<T>& in, int64_t dim, int64_t width, int64_t vectors, const Layer<T>& out) {
  for (int64_t h = 0; h < width; ++h) {
    int64_t vector = 0;
    for (; vector + kGroup <= vectors; vector += kGroup) {
      evaluate_filter<T, kDim, kKeep, kGroup>(in, dim, h, vector * kLanes<T>, out);
    }
    for (; vector < vectors; ++vector) {
      evaluate_filter<T, kDim, kKeep, 1>(in, dim, h, vector * kLanes<T>, out);
    }
  }
}

// Evaluates the network. Every thread has one.
template <typename T>
class Network {
 public:
  // With `keep`, every layer keeps the arrays that `Reverse` reads.
  Network(const Problem<T>& problem, const Filters<T>& filters, bool keep, Arena& arena)
      : features(arena.zeros<T>(problem.padded_width * kTile<T>)), layers(problem.layers),
        problem_(problem), filters_(filters), keep_(keep) {
    const int64_t size = round_up(problem.width, kLanes<T>) * kTile<T>;
    linear_ = arena.zeros<T>(size);
    T* shared = keep ? nullptr : arena.zeros<T>(size);
    for (int64_t l = 0; l < problem.layers; ++l) {
      const bool last = l + 1 == problem.layers;
      layers[l].hidden = last ? features : keep ? arena.zeros<T>(size) : shared;
      layers[l].gain = keep ? arena.zeros<T>(size) : nullptr;
      layers[l].slope = keep ? arena.zeros<T>(size) : nullptr;
    }
  }

  // Fills `features` with the last hidden layer times the window and with the window itself. Idle
  // lanes are zero.
  void evaluate(const Tile<T>& tile) {
    const int64_t vectors = tile.vectors(), width = problem_.width;
    for (int64_t l = 0; l < problem_.layers; ++l) {
      if (l > 0) {
        const T* weight = problem_.weights + (l - 1) * width * width;
        gemm<T>(
            {weight, width, 1}, {layers[l - 1].hidden, kTile<T>}, width, vectors, width,
            Store<T>{linear_, kTile<T>});
      }
      const LayerInput<T> in{
          &filters_.record[l * width * filters_.stride], tile.offset,
          l + 1 == problem_.layers ? tile.window_decay : nullptr, l > 0 ? linear_ : nullptr,
          problem_.biases + (l > 0 ? l - 1 : 0) * width};
      with_dimension(problem_.dim, [&](auto dim) {
        const auto evaluate =
            keep_ ? evaluate_layer<T, dim.value, true> : evaluate_layer<T, dim.value, false>;
        evaluate(in, problem_.dim, width, vectors, layers[l]);
      });
    }
    const int64_t lanes = vectors * kLanes<T>;
    T* window = features + width * kTile<T>;
    for (int64_t lane = 0; lane < lanes; lane += kLanes<T>) {
      exp2_of_minus(Vec<T>::loadu(tile.window_decay + lane)).store(window + lane);
    }
    for (int64_t h = 0; h <= width && tile.count < lanes; ++h) {
      std::fill(features + h * kTile<T> + tile.count, features + h * kTile<T> + lanes, T(0));
    }
  }

  T* features;  // [padded H + 1, kTile]
  std::vector<Layer<T>> layers;

 private:
  const Problem<T>& problem_;
  const Filters<T>& filters_;
  bool keep_;
  T* linear_;  // [H, kTile]
};

}  // namespace ccnn_geo
