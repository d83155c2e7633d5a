// Which thread computes what, and sums that do not lose what float32 would.
#pragma once

#include "tile.h"

namespace ccnn_geo {

// Sums of many tiles: collected in T, and moved into double before they grow large against a term.
template <typename T>
class Total {
 public:
  Total() = default;
  Total(int64_t size, Arena& arena)
      : values(arena.zeros<T>(size)), sums(arena.zeros<double>(size)), size_(size) {}

  void count_tile() {
    constexpr int kTilesPerFlush = 64;
    if (++tiles_ == kTilesPerFlush) flush();
  }

  void flush() {
    for (int64_t i = 0; i < size_; ++i) {
      sums[i] += values[i];
      values[i] = T(0);
    }
    tiles_ = 0;
  }

  // Adds another thread's sums, one of several equal shares of them.
  void merge(const Total& other, int64_t share, int64_t shares) {
    const int64_t last = size_ * (share + 1) / shares;
    for (int64_t i = size_ * share / shares; i < last; ++i) sums[i] += other.sums[i];
  }

  T* values = nullptr;
  double* sums = nullptr;

 private:
  int64_t size_ = 0;
  int tiles_ = 0;
};

// Consecutive targets, block by block: enough blocks to share out evenly, each of many tiles.
struct Blocks {
  template <typename T>
  explicit Blocks(const Problem<T>& problem) {
    constexpr int64_t kSlotsPerBlock = 16 * kTile<T>;
    const int64_t per_block =
        kSlotsPerBlock * problem.targets / std::max<int64_t>(problem.slots, 1);
    const int64_t share = (problem.targets + problem.threads - 1) / problem.threads;
    size = std::max<int64_t>(1, std::min(per_block, share));
    count = (problem.targets + size - 1) / size;
  }

  int64_t size, count;
};

// Takes a worker through the edges of one block of targets, a full tile at a time.
//
// A tile mixes edges of different targets, except for aggregates (calls without a readout), where
// what is done with an edge's features depends on its target.
template <typename T, typename Worker>
void walk(
    const Problem<T>& problem, const Blocks& blocks, int64_t block, Worker& worker,
    std::atomic<bool>& bad_index) {
  Tile<T>& tile = worker.tile();
  const int64_t last = std::min((block + 1) * blocks.size, problem.targets);
  for (int64_t target = block * blocks.size; target < last; ++target) {
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
