// The division of a call into blocks and strands, and sums in double precision.
//
// Blocks of targets are divided into strands, each with sums of its own. Blocks and strands depend
// on the operands only, and the sums of all strands are added in a fixed order. Results therefore
// do not depend on the number or the speed of the threads.
#pragma once

#include "parallel.h"
#include "tile.h"

namespace ccnn_geo {

// Sums over the tiles of one block, in T. Each of the `size` sums is spread over `kSpread` values.
template <typename T, int64_t kSpread = 1>
class BlockSums {
 public:
  BlockSums() = default;
  BlockSums(int64_t size, Arena& arena) : values(arena.zeros<T>(size * kSpread)), size(size) {}

  // Adds the sums to those of a strand and resets them.
  void move_to(double* sums) {
    for (int64_t i = 0; i < size; ++i) {
      double parts[kSpread];
      std::copy_n(values + i * kSpread, kSpread, parts);
      for (int64_t half = kSpread / 2; half > 0; half /= 2) {
        for (int64_t part = 0; part < half; ++part) parts[part] += parts[part + half];
      }
      sums[i] += parts[0];
    }
    std::fill_n(values, size * kSpread, T(0));
  }

  T* values = nullptr;
  int64_t size = 0;
};

// Blocks of consecutive targets: enough for an even distribution, each of several tiles.
struct Blocks {
  template <typename T>
  explicit Blocks(const Problem<T>& problem) {
    constexpr int64_t kBlocks = 16, kSmallest = 4 * kTile<T>, kLargest = 16 * kTile<T>;
    const int64_t slots = std::clamp(problem.slots / kBlocks, kSmallest, kLargest);
    size = std::max<int64_t>(1, slots * problem.targets / std::max<int64_t>(problem.slots, 1));
    count = (problem.targets + size - 1) / size;
  }

  // The first target of a block.
  template <typename T>
  int64_t begin(const Problem<T>& problem, int64_t block) const {
    return std::min(block * size, problem.targets);
  }

  int64_t size, count;
};

// Returns the number of strands, a power of two. Every strand has enough slots that its sums cost
// little time.
template <typename T>
int64_t count_strands(const Problem<T>& problem, const Blocks& blocks) {
  constexpr int64_t kSlots = 128 * kTile<T>, kMost = 64;
  const int64_t wanted = std::clamp<int64_t>(problem.slots / kSlots, 2, kMost);
  int64_t strands = 1;
  while (2 * strands <= std::min(wanted, blocks.count)) strands *= 2;
  return strands;
}

// Collects the edges of one block of targets into tiles and calls worker.process() for each.
//
// A tile may hold edges of several targets, except for aggregates (calls without a readout), whose
// workers process one target at a time.
template <typename T, typename Worker>
void walk(
    const Problem<T>& problem, const Blocks& blocks, int64_t block, Worker& worker,
    std::atomic<bool>& bad_index) {
  Tile<T>& tile = worker.tile();
  const int64_t last = blocks.begin(problem, block + 1);
  for (int64_t target = blocks.begin(problem, block); target < last; ++target) {
    int64_t slot = problem.first_slot(target);
    const int64_t end = problem.first_slot(target + 1);
    if (!problem.readout) worker.begin_target(target);
    while (slot < end) {
      slot = tile.collect(target, slot, end, bad_index);
      if (tile.full()) worker.process();
    }
    if (!problem.readout) {
      if (tile.count > 0) worker.process();
      worker.end_target(target);
    }
  }
  if (tile.count > 0) worker.process();
}

}  // namespace ccnn_geo
