// The forward pass.
#pragma once

#include <optional>

#include "network.h"
#include "schedule.h"

namespace ccnn_geo {

// Contracts a block of M = features x sources with the readout and adds it to the output.
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

// The buffers of one thread in the forward pass.
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
      moment_ = BlockSums<T>(problem.padded_width * problem.padded_width, arena_);
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
    const int64_t channels = problem_.channels;
    std::fill(
        output_ + blocks.begin(problem_, block) * channels,
        output_ + blocks.begin(problem_, block + 1) * channels, T(0));
  }

  // Adds the moment of the block to that of its strand, [padded H + 1, padded H + 1].
  void end_block(std::vector<double>& moment) {
    if (!moment_.values) return;
    moment.resize(moment_.size, 0.0);
    moment_.move_to(moment.data());
  }

  void begin_target(int64_t) {}

  // Only for aggregates: writes one and resets the buffer.
  void end_target(int64_t target) {
    const int64_t features = problem_.width + 1, stride = problem_.padded_channels;
    T* out = output_ + target * problem_.channels * features;
    for (int64_t c = 0; c < problem_.channels; ++c) {
      for (int64_t h = 0; h < features; ++h) out[c * features + h] = aggregate_[h * stride + c];
    }
    std::fill_n(aggregate_, features * stride, T(0));
  }

 private:
  void add_moment() {
    const int64_t padded = problem_.padded_width;
    const int64_t edges = tile_.vectors() * kLanes<T>;
    transpose(network_.features, kTile<T>, transposed_, padded, padded, edges);
    gemm<T>(
        {network_.features, kTile<T>, 1}, {transposed_, padded}, problem_.width + 1,
        padded / kLanes<T>, tile_.count, Add<T>{moment_.values, padded});
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
  BlockSums<T> moment_;      // [padded H + 1, padded H + 1]
};

// Computes the output and, where `moment` is not null, the second moment of the features.
template <typename T>
void forward(const Problem<T>& problem, T* output, T* moment) {
  const Filters<T> filters(problem);
  const Blocks blocks(problem);
  const int64_t strands = count_strands(problem, blocks);
  std::vector<std::vector<double>> moments(strands);
  std::atomic<bool> bad_index{false};
  Scheduler scheduler({{0, blocks.count, strands}});
  parallel(std::min(problem.threads, blocks.count), [&] {
    std::optional<ForwardWorker<T>> worker;
    scheduler.work([&](size_t, int64_t strand, int64_t block) {
      if (!worker) worker.emplace(problem, filters, moment != nullptr, output);
      worker->begin_block(blocks, block);
      walk(problem, blocks, block, *worker, bad_index);
      worker->end_block(moments[strand]);
    });
  });
  if (bad_index) throw std::out_of_range("index");
  if (!moment) return;
  const int64_t features = problem.width + 1, padded = problem.padded_width;
  std::vector<double> total(padded * padded, 0.0);
  for (const std::vector<double>& part : moments) {
    for (size_t i = 0; i < part.size(); ++i) total[i] += part[i];
  }
  for (int64_t row = 0; row < features; ++row) {
    for (int64_t column = 0; column < features; ++column) {
      moment[row * features + column] = static_cast<T>(total[row * padded + column]);
    }
  }
}

}  // namespace ccnn_geo
