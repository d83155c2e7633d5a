// The backward pass: recomputes the features of every tile and differentiates them.
#pragma once

#include <optional>

#include "reverse.h"
#include "source_gradients.h"

namespace ccnn_geo {

// Multiplies a block of kernel values, edges x channels, by the gradients of the edges' outputs,
// and adds the products to the gradients of the sources' features.
template <typename T>
struct Scatter {
  T* x;
  int64_t stride;
  const int64_t* row_of;       // [edges]
  const T* const* grad_output;  // [edges] rows of the padded gradient, or null: times one

  template <int kRows, int kVectors>
  void operator()(int64_t edge, int64_t column, Vec<T> (&sum)[kRows][kVectors]) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      T* to = x + row_of[edge + r] * stride + column;
      const T* factor = grad_output ? grad_output[edge + r] + column : nullptr;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec<T> old = Vec<T>::loadu(to + v * kLanes<T>);
        const Vec<T> fresh = factor
            ? at::vec::fmadd(sum[r][v], Vec<T>::loadu(factor + v * kLanes<T>), old)
            : old + sum[r][v];
        fresh.store(to + v * kLanes<T>);
      }
    }
  }
};

// The sums of one strand, see schedule.h.
template <typename T>
struct StrandSums {
  StrandSums(const Problem<T>& problem, const SourceGradients<T>& sources, int64_t strand)
      : parameters(problem), rows(sources.rows(strand, arena)) {}

  Arena arena;
  ParameterSums parameters;
  SourceRows<T> rows;
};

// The buffers of one thread in the backward pass.
template <typename T>
class BackwardWorker {
 public:
  BackwardWorker(
      const Problem<T>& problem, const Filters<T>& filters, const T* grad_output,
      const T* grad_moment, const Gradients<T>& out)
      : problem_(problem), filters_(filters), grad_output_(grad_output),
        grad_moment_(grad_moment), out_(out), tile_(problem, arena_),
        network_(problem, filters, true, arena_), reverse_(problem, out.source != nullptr, arena_),
        transposed_(arena_.zeros<T>(problem.padded_channels * kTile<T>)) {
    const int64_t kept = problem.readout ? kTile<T> : problem.width + 1;
    outer_ = arena_.zeros<T>(kept * problem.padded_channels);
  }

  Tile<T>& tile() { return tile_; }

  // Selects the rows to which gradients of sources are added.
  void begin_block(SourceRows<T>& rows) { rows_ = &rows; }

  void end_block(ParameterSums& sums) { reverse_.sums.move_to(sums); }

  // Only for aggregates: transposes the gradient of one to [H + 1, padded C].
  void begin_target(int64_t target) {
    const int64_t features = problem_.width + 1;
    aggregate_ = grad_output_ + target * problem_.channels * features;
    for (int64_t c = 0; c < problem_.channels; ++c) {
      for (int64_t h = 0; h < features; ++h) {
        outer_[h * problem_.padded_channels + c] = aggregate_[c * features + h];
      }
    }
  }

  void end_target(int64_t) {}

  void process() {
    tile_.finish();
    tile_.prefetch(problem_.x, problem_.channels);
    if (rows_->x && !rows_->owner) tile_.prefetch(rows_->x, problem_.padded_channels, rows_->first);
    network_.evaluate(tile_);
    if (problem_.readout) load_grad_output();
    tile_.gather(problem_.readout ? outer_ : nullptr);
    if (problem_.readout) add_readout();
    if (rows_->x || rows_->position) rows_->assign(problem_, tile_, row_of_);
    if (rows_->x) add_x();
    differentiate_features();
    reverse_.run(tile_, network_);
    if (rows_->position) add_positions();
    tile_.clear();
  }

 private:
  // Copies the gradients of the outputs into padded rows, one per run.
  void load_grad_output() {
    const int64_t stride = problem_.padded_channels;
    for (int64_t r = 0; r < tile_.num_runs; ++r) {
      const Run& run = tile_.runs[r];
      std::copy_n(
          grad_output_ + run.target * problem_.channels, problem_.channels, outer_ + r * stride);
      std::fill(grad_of_ + run.begin, grad_of_ + run.end, outer_ + r * stride);
    }
  }

  void add_readout() {
    const int64_t stride = problem_.padded_channels;
    gemm<T>(
        {network_.features, kTile<T>, 1}, {tile_.x, stride}, problem_.width + 1,
        stride / kLanes<T>, tile_.count, Add<T>{reverse_.sums.readout.values, stride});
  }

  void add_x() {
    const int64_t stride = problem_.padded_channels;
    const bool depthwise = problem_.readout != nullptr;
    gemm<T>(
        {network_.features, 1, kTile<T>}, {depthwise ? filters_.readout.data() : outer_, stride},
        tile_.count, stride / kLanes<T>, problem_.width + 1,
        Scatter<T>{rows_->x, stride, row_of_, depthwise ? grad_of_ : nullptr});
  }

  void differentiate_features() {
    const int64_t stride = problem_.padded_channels, features = problem_.width + 1;
    const int64_t vectors = tile_.vectors();
    transpose(tile_.x, stride, transposed_, kTile<T>, vectors * kLanes<T>, stride);
    const Left<T> left = problem_.readout ? Left<T>{filters_.readout.data(), stride, 1}
                                          : Left<T>{aggregate_, 1, features};
    gemm<T>(
        left, {transposed_, kTile<T>}, features, vectors, problem_.channels,
        Store<T>{reverse_.grad_features, kTile<T>});
    if (!grad_moment_) return;
    gemm<T>(
        {grad_moment_, features, 1}, {network_.features, kTile<T>}, features, vectors, features,
        Add<T>{reverse_.grad_features, kTile<T>});
  }

  void add_positions() {
    const int64_t dim = problem_.dim;
    for (int64_t r = 0; r < tile_.num_runs; ++r) {
      const Run& run = tile_.runs[r];
      for (int64_t d = 0; d < dim; ++d) {
        T sum = T(0);
        for (int64_t edge = run.begin; edge < run.end; ++edge) {
          const T grad = reverse_.grad_offset[d * kTile<T> + edge];
          rows_->position[row_of_[edge] * dim + d] += grad;
          sum += grad;
        }
        out_.target[run.target * dim + d] -= sum;
      }
    }
  }

  const Problem<T>& problem_;
  const Filters<T>& filters_;
  const T *grad_output_, *grad_moment_;
  const Gradients<T>& out_;
  Arena arena_;
  Tile<T> tile_;
  Network<T> network_;
  Reverse<T> reverse_;
  SourceRows<T>* rows_ = nullptr;
  T* transposed_;                 // [padded C, kTile]
  T* outer_;                      // [kTile, padded C] by run; for aggregates [H + 1, padded C]
  const T* aggregate_ = nullptr;  // [C, H + 1] gradient of the current aggregate
  int64_t row_of_[kTile<T>];
  const T* grad_of_[kTile<T>];
};

// Returns G + G^T, the factor of the features in the gradient of f^T G f.
template <typename T>
std::vector<T> symmetric(const T* grad_moment, int64_t size) {
  std::vector<T> sum(grad_moment ? size * size : 0);
  for (int64_t row = 0; grad_moment && row < size; ++row) {
    for (int64_t column = 0; column < size; ++column) {
      sum[row * size + column] =
          grad_moment[row * size + column] + grad_moment[column * size + row];
    }
  }
  return sum;
}

// Computes the gradients of a call. `grad_moment` is null if there is no gradient of the moment.
template <typename T>
void backward(
    const Problem<T>& problem, const T* grad_output, const T* grad_moment,
    const Gradients<T>& out) {
  const Filters<T> filters(problem);
  const Blocks blocks(problem);
  const SourceGradients<T> sources(problem, blocks, out);
  const std::vector<T> moment = symmetric(grad_moment, problem.width + 1);
  const int64_t strands = sources.strands(), rounds = sources.rounds();
  const int64_t threads = std::min(problem.threads, std::max<int64_t>(blocks.count, 1));
  const int64_t shares = 4 * threads;
  std::vector<std::unique_ptr<StrandSums<T>>> sums(strands);
  std::atomic<bool> bad_index{false};
  if (out.target) std::fill_n(out.target, problem.targets * problem.dim, T(0));

  // Two stages per round, for its blocks and for the sum of its rows, and one for all other sums.
  std::vector<Stage> stages;
  for (int64_t round = 0; round < rounds; ++round) {
    stages.push_back({sources.first_block(round), sources.first_block(round + 1), strands});
    stages.push_back({0, sources.staged() ? shares : 0, shares});
  }
  stages.push_back({0, shares + 1, shares + 1});
  Scheduler scheduler(stages);

  const auto finish = [&](int64_t share) {
    std::vector<const SourceRows<T>*> rows;
    for (const auto& each : sums) {
      if (each) rows.push_back(&each->rows);
    }
    if (share < shares) {
      if (!sources.staged()) sources.finish(rows, share, shares);
      return;
    }
    ParameterSums total(problem);
    for (const auto& each : sums) {
      if (each) total.add(each->parameters);
    }
    write_parameter_gradients(problem, total, out);
  };

  parallel(threads, [&] {
    std::optional<BackwardWorker<T>> worker;
    scheduler.work([&](size_t stage, int64_t strand, int64_t item) {
      const int64_t round = static_cast<int64_t>(stage) / 2;
      if (round == rounds) return finish(item);
      if (stage % 2 == 1) return sources.end_round(round, item, shares);
      if (!worker) {
        worker.emplace(
            problem, filters, grad_output, grad_moment ? moment.data() : nullptr, out);
      }
      if (!sums[strand]) sums[strand] = std::make_unique<StrandSums<T>>(problem, sources, strand);
      StrandSums<T>& own = *sums[strand];
      sources.begin_block(round, item, own.rows);
      worker->begin_block(own.rows);
      walk(problem, blocks, item, *worker, bad_index);
      worker->end_block(own.parameters);
      sources.end_block(round, item, own.rows);
    });
  });
  if (bad_index) throw std::out_of_range("index");
}

}  // namespace ccnn_geo
