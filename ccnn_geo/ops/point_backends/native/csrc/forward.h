// The forward pass.
#pragma once

#include "network.h"
#include "parallel.h"
#include "schedule.h"

namespace ccnn_geo {

// Finishes a block of M = features x sources by contracting it with the readout.
template <typename T>
struct Contract {
  const T* readout;
  int64_t stride;
  T* output;

  template <int kRows, int kVectors>
  void operator()(int64_t row, int64_t column, Vec<T> (&sum)[kRows][kVectors]) const {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = column + v * kLanes<T>;
      Vec<T> total = Vec<T>::loadu(output + c);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        total = at::vec::fmadd(sum[r][v], Vec<T>::loadu(readout + (row + r) * stride + c), total);
      }
      total.store(output + c);
    }
  }
};

// What one thread owns while it computes outputs.
template <typename T>
class ForwardWorker {
 public:
  ForwardWorker(const Problem<T>& problem, const Filters<T>& filters, bool with_moment, T* output)
      : problem_(problem), filters_(filters), output_(output),
        tile_(problem, arena_), network_(problem, filters, false, arena_),
        row_(arena_.zeros<T>(problem.padded_channels)) {
    if (!problem.readout) {
      aggregate_ = arena_.zeros<T>((problem.width + 1) * problem.padded_channels);
    }
    if (with_moment) {
      transposed_ = arena_.zeros<T>(kTile<T> * problem.padded_width);
      moment_ = Total<T>(problem.padded_width * problem.padded_width, arena_);
    }
  }

  Tile<T>& tile() { return tile_; }

  void process() {
    tile_.finish();
    tile_.prefetch(problem_.x, problem_.channels);
    network_.evaluate(tile_);
    tile_.gather(nullptr);
    const int64_t stride = problem_.padded_channels, features = problem_.width + 1;
    for (int64_t r = 0; r < tile_.num_runs; ++r) {
      const Run& run = tile_.runs[r];
      const Left<T> left{network_.features + run.begin, kTile<T>, 1};
      const Right<T> right{tile_.x + run.begin * stride, stride};
      const int64_t vectors = stride / kLanes<T>, edges = run.end - run.begin;
      if (problem_.readout) {
        std::fill_n(row_, stride, T(0));
        gemm<T>(
            left, right, features, vectors, edges,
            Contract<T>{filters_.readout.data(), stride, row_});
        T* out = output_ + run.target * problem_.channels;
        for (int64_t c = 0; c < problem_.channels; ++c) out[c] += row_[c];
      } else {
        gemm<T>(left, right, features, vectors, edges, Add<T>{aggregate_, stride});
      }
    }
    if (moment_.values) add_moment();
    tile_.clear();
  }

  void begin_block(const Blocks& blocks, int64_t block) {
    if (!problem_.readout) return;
    const int64_t first = block * blocks.size;
    const int64_t last = std::min(first + blocks.size, problem_.targets);
    const int64_t channels = problem_.channels;
    std::fill(output_ + first * channels, output_ + last * channels, T(0));
  }

  void begin_target(int64_t) {}

  void end() {
    if (moment_.values) moment_.flush();
  }

  // Only for aggregates: writes one, and makes room for the next.
  void end_target(int64_t target) {
    const int64_t features = problem_.width + 1, stride = problem_.padded_channels;
    T* out = output_ + target * problem_.channels * features;
    for (int64_t c = 0; c < problem_.channels; ++c) {
      for (int64_t h = 0; h < features; ++h) out[c * features + h] = aggregate_[h * stride + c];
    }
    std::fill_n(aggregate_, features * stride, T(0));
  }

  Total<T>& moment() { return moment_; }

 private:
  void add_moment() {
    const int64_t padded = problem_.padded_width;
    const int64_t edges = tile_.vectors() * kLanes<T>;
    transpose(network_.features, kTile<T>, transposed_, padded, padded, edges);
    gemm<T>(
        {network_.features, kTile<T>, 1}, {transposed_, padded}, problem_.width + 1,
        padded / kLanes<T>, tile_.count, Add<T>{moment_.values, padded});
    moment_.count_tile();
  }

  const Problem<T>& problem_;
  const Filters<T>& filters_;
  T* output_;
  Arena arena_;
  Tile<T> tile_;
  Network<T> network_;
  T* row_;                   // [padded C]
  T* aggregate_ = nullptr;   // [H + 1, padded C]
  T* transposed_ = nullptr;  // [kTile, padded H + 1]
  Total<T> moment_;          // [padded H + 1, padded H + 1]
};

// Computes the output and, where `moment` is not null, the second moment of the features.
template <typename T>
void forward(const Problem<T>& problem, T* output, T* moment) {
  const Filters<T> filters(problem);
  const Blocks blocks(problem);
  const int64_t threads = std::min(problem.threads, std::max<int64_t>(blocks.count, 1));
  std::vector<std::unique_ptr<ForwardWorker<T>>> workers(threads);
  std::atomic<bool> bad_index{false};
  std::atomic<int64_t> next{0};
  parallel(threads, [&](int64_t thread) {
    workers[thread] =
        std::make_unique<ForwardWorker<T>>(problem, filters, moment != nullptr, output);
    ForwardWorker<T>& worker = *workers[thread];
    // Where sums are made, which thread adds what is fixed, and with it the result.
    int64_t block = moment ? thread : next++;
    while (block < blocks.count) {
      worker.begin_block(blocks, block);
      walk(problem, blocks, block, worker, bad_index);
      block = moment ? block + threads : next++;
    }
    worker.end();
  });
  if (bad_index) throw std::out_of_range("index");
  if (!moment) return;
  Total<T>& total = workers[0]->moment();
  for (int64_t thread = 1; thread < threads; ++thread) {
    total.merge(workers[thread]->moment(), 0, 1);
  }
  const int64_t features = problem.width + 1;
  for (int64_t row = 0; row < features; ++row) {
    for (int64_t column = 0; column < features; ++column) {
      moment[row * features + column] =
          static_cast<T>(total.sums[row * problem.padded_width + column]);
    }
  }
}

}  // namespace ccnn_geo
