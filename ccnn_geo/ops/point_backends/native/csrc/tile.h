// Tiles of edges, with one edge per SIMD lane.
#pragma once

#include <atomic>

#include "problem.h"

namespace ccnn_geo {

// Edges per tile: enough to amortise the work per tile, and so few that all intermediate results
// stay in the second-level cache.
template <typename T>
constexpr int64_t kTile = 512 / sizeof(T);

// Consecutive edges of one target in a tile.
struct Run {
  int64_t target, begin, end;
};

// The edges that a thread works on.
template <typename T>
class Tile {
 public:
  Tile(const Problem<T>& problem, Arena& arena)
      : offset(arena.zeros<T>(problem.dim * kTile<T>)), window_decay(arena.zeros<T>(kTile<T>)),
        x(arena.zeros<T>(kTile<T> * problem.padded_channels)), problem_(problem) {}

  bool full() const { return count == kTile<T>; }
  int64_t vectors() const { return (count + kLanes<T> - 1) / kLanes<T>; }

  void clear() { count = num_runs = 0; }

  // Adds the edges of a target from `slot` on until there are no more or the tile is full. Returns
  // the next slot. Empty slots and edges outside the kernel's support are left out, because they
  // contribute to no result.
  int64_t collect(int64_t target, int64_t slot, int64_t end, std::atomic<bool>& bad_index) {
    if (problem_.sources == 0) {
      bad_index = bad_index || slot < end;
      return end;
    }
    const int64_t before = count, taken = std::min(end - slot, kTile<T> - count);
    with_dimension(problem_.dim, [&](auto dim) {
      if (load<dim.value>(problem_.index + slot, target, taken, bad_index)) {
        count += taken;
      } else {
        compact(taken);
      }
    });
    if (num_runs > 0 && runs[num_runs - 1].target == target) {
      runs[num_runs - 1].end = count;
    } else if (count > before) {
      runs[num_runs++] = {target, before, count};
    }
    return slot + taken;
  }

  // Computes the exponents of the window and sets the offsets of idle lanes to zero.
  void finish() {
    constexpr T kHigh = static_cast<T>(kHalfLog2E), kLow = static_cast<T>(kHalfLog2E - kHigh);
    const int64_t padded = vectors() * kLanes<T>;
    for (int64_t d = 0; d < problem_.dim; ++d) {
      std::fill(offset + d * kTile<T> + count, offset + d * kTile<T> + padded, T(0));
    }
    for (int64_t lane = 0; lane < padded; lane += kLanes<T>) {
      Vec<T> square(T(0));
      for (int64_t d = 0; d < problem_.dim; ++d) {
        const Vec<T> scaled =
            Vec<T>::loadu(offset + d * kTile<T> + lane) * Vec<T>(problem_.inverse_sigma[d]);
        square = at::vec::fmadd(scaled, scaled, square);
      }
      // The factor is split in two, because its rounding would be a systematic error.
      const Vec<T> decay = at::vec::fmadd(square, Vec<T>(kHigh), square * Vec<T>(kLow));
      decay.store(window_decay + lane);
    }
  }

  // Prefetches the rows of the tile's sources, which arrive while the kernel is evaluated, from a
  // table [., stride] whose first row belongs to the source `first`. A table that the second-level
  // cache holds is not prefetched. Inlined by force: GCC would remove the calls of a function that
  // only prefetches.
  [[gnu::always_inline]] void prefetch(const T* rows, int64_t stride, int64_t first = 0) const {
#if defined(__GNUC__)
    constexpr int64_t kLine = 64 / sizeof(T), kCacheBytes = 1 << 20;
    if (problem_.sources * stride * static_cast<int64_t>(sizeof(T)) < kCacheBytes) return;
    for (int64_t edge = 0; edge < count; ++edge) {
      const T* row = rows + (source[edge] - first) * stride;
      for (int64_t c = 0; c < stride; c += kLine) __builtin_prefetch(row + c, 0, 2);
    }
#else
    (void)rows, (void)stride, (void)first;
#endif
  }

  // Gathers the features of the sources into `x`, [edges, padded channels], multiplied by the rows
  // of `gain`, one per run, unless it is null. Idle lanes are set to zero.
  void gather(const T* gain) {
    const int64_t whole = problem_.channels / kLanes<T> * kLanes<T>;
    const int64_t rest = problem_.channels - whole, stride = problem_.padded_channels;
    for (int64_t r = 0; r < num_runs; ++r) {
      for (int64_t edge = runs[r].begin; edge < runs[r].end; ++edge) {
        const T* from = problem_.x + source[edge] * problem_.channels;
        T* to = x + edge * stride;
        const T* factor = gain ? gain + r * stride : nullptr;
        const auto copy = [&](int64_t c, const Vec<T>& value) {
          (factor ? value * Vec<T>::loadu(factor + c) : value).store(to + c);
        };
        for (int64_t c = 0; c < whole; c += kLanes<T>) copy(c, Vec<T>::loadu(from + c));
        if (rest) copy(whole, Vec<T>::loadu(from + whole, rest));
      }
    }
    std::fill(x + count * stride, x + vectors() * kLanes<T> * stride, T(0));
  }

  int64_t count = 0, num_runs = 0;
  int64_t source[kTile<T>];
  Run runs[kTile<T>];
  T* offset;        // [D, kTile]
  T* window_decay;  // [kTile], base-two exponent of the window, negated
  T* x;             // [kTile, padded C]

 private:
  // Appends `size` edges without counting them. Returns true if all are valid and inside.
  template <int kDim>
  bool load(const int64_t* index, int64_t target, int64_t size, std::atomic<bool>& bad_index) {
    const int64_t dim = kDim ? kDim : problem_.dim, sources = problem_.sources;
    const double* center = problem_.target + target * dim;
    bool all = true;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t j = index[i];
      const bool valid = static_cast<uint64_t>(j) < static_cast<uint64_t>(sources);
      const double* position = problem_.source + (valid ? j : 0) * dim;
      source[count + i] = valid ? j : -1;
      all &= valid;
      for (int64_t d = 0; d < dim; ++d) {
        offset[d * kTile<T> + count + i] = static_cast<T>(position[d] - center[d]);
      }
    }
    if (!all && *std::max_element(index, index + size) >= sources) bad_index = true;
    for (int64_t d = 0; d < dim; ++d) {
      const T lower = problem_.bounds[d], upper = problem_.bounds[dim + d];
      const T* v = offset + d * kTile<T> + count;
      int outside = 0;
      for (int64_t i = 0; i < size; ++i) outside |= (v[i] < lower) | (v[i] > upper);
      all &= !outside;
    }
    return all;
  }

  // Counts those of the last `size` appended edges that are valid and inside, and drops the others.
  void compact(int64_t size) {
    const int64_t dim = problem_.dim, first = count;
    for (int64_t i = first; i < first + size; ++i) {
      bool inside = source[i] >= 0;
      for (int64_t d = 0; d < dim; ++d) {
        const T v = offset[d * kTile<T> + i];
        // NaN counts as inside, so that it reaches the output.
        inside &= !(v < problem_.bounds[d]) && !(v > problem_.bounds[dim + d]);
        offset[d * kTile<T> + count] = v;
      }
      source[count] = source[i];
      count += inside;
    }
  }

  const Problem<T>& problem_;
};

}  // namespace ccnn_geo
