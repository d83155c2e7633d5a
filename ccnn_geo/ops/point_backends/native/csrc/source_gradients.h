// Gradients of the sources: every thread has some for every source, and they must be summed in an
// order that does not depend on timing.
#pragma once

#include "gradients.h"
#include "parallel.h"

namespace ccnn_geo {

// Rows in which one worker leaves the gradients of its edges' sources.
template <typename T>
struct SourceRows {
  T* x = nullptr;            // [rows, padded C] or null
  T* position = nullptr;     // [rows, D] or null
  int64_t* owner = nullptr;  // [rows] the source of every row, or null: a row for each source
  int64_t next = 0;          // the first free row, where rows have owners

  // Finds the row of every edge; a row that is handed out for the first time is zero.
  void assign(const Problem<T>& problem, const Tile<T>& tile, int64_t* row) {
    for (int64_t edge = 0; edge < tile.count; ++edge) {
      row[edge] = owner ? next++ : tile.source[edge];
      if (!owner) continue;
      owner[row[edge]] = tile.source[edge];
      if (x) std::fill_n(x + row[edge] * problem.padded_channels, problem.padded_channels, T(0));
      if (position) std::fill_n(position + row[edge] * problem.dim, problem.dim, T(0));
    }
  }
};

// Sums the gradients of the sources, in bounded memory.
//
// While a row per source and thread fits the memory allowed, each thread sums into its own, and all
// are added up at the end. Otherwise the work goes in rounds: the edges of a few blocks leave their
// gradients in rows of their own, in the order of the edges, then each thread sums those that
// belong to its share of the sources.
template <typename T>
class SourceGradients {
 public:
  SourceGradients(const Problem<T>& problem, const Blocks& blocks, const Gradients<T>& out)
      : problem_(problem), blocks_(blocks), out_(out) {
    const int64_t row_bytes = sizeof(T) *
        ((out.x ? problem.padded_channels : 0) + (out.source ? problem.dim : 0));
    const int64_t affordable = problem.buffer_bytes / std::max<int64_t>(row_bytes, 1);
    staged_ = row_bytes > 0 && problem.sources * problem.threads > affordable;
    rounds_.push_back(0);
    int64_t most = 0;
    for (int64_t block = 0; block < blocks.count; ++block) {
      const bool fits = slots_between(rounds_.back(), block + 1) <= affordable;
      if (staged_ && !fits && block > rounds_.back()) rounds_.push_back(block);
      most = std::max(most, slots_between(rounds_.back(), block + 1));
    }
    if (blocks.count > 0) rounds_.push_back(blocks.count);
    if (!staged_) return;
    stage_.x = out.x ? arena_.take<T>(most * problem.padded_channels) : nullptr;
    stage_.position = out.source ? arena_.take<T>(most * problem.dim) : nullptr;
    stage_.owner = arena_.take<int64_t>(most);
    if (out.x) std::fill_n(out.x, problem.sources * problem.channels, T(0));
    if (out.source) std::fill_n(out.source, problem.sources * problem.dim, T(0));
  }

  int64_t rounds() const { return static_cast<int64_t>(rounds_.size()) - 1; }
  int64_t first_block(int64_t round) const { return rounds_[round]; }

  // Rows for a new worker.
  SourceRows<T> rows(Arena& arena) const {
    if (staged_) return stage_;
    SourceRows<T> rows;
    if (out_.x) rows.x = arena.zeros<T>(problem_.sources * problem_.padded_channels);
    if (out_.source) rows.position = arena.zeros<T>(problem_.sources * problem_.dim);
    return rows;
  }

  // To be called around a block: the rows of a block have their fixed place in the round.
  void begin_block(int64_t round, int64_t block, SourceRows<T>& rows) const {
    if (staged_) rows.next = slots_between(rounds_[round], block);
  }
  void end_block(int64_t round, int64_t block, SourceRows<T>& rows) const {
    if (!staged_) return;
    int64_t* end = stage_.owner + slots_between(rounds_[round], block + 1);
    std::fill(stage_.owner + rows.next, end, -1);
  }

  // Sums a round's rows into the gradients; one thread's share of the sources.
  void end_round(int64_t round, int64_t thread, int64_t threads) const {
    if (!staged_) return;
    const int64_t first = problem_.sources * thread / threads;
    const int64_t last = problem_.sources * (thread + 1) / threads;
    const int64_t rows = slots_between(rounds_[round], rounds_[round + 1]);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t source = stage_.owner[row];
      if (source < first || source >= last) continue;
      add(source, row, stage_);
    }
  }

  // Sums the workers' rows into the gradients; one thread's share of the sources.
  void finish(const std::vector<const SourceRows<T>*>& workers, int64_t thread) const {
    if (staged_) return;
    const int64_t threads = static_cast<int64_t>(workers.size());
    const int64_t first = problem_.sources * thread / threads;
    const int64_t last = problem_.sources * (thread + 1) / threads;
    for (int64_t source = first; source < last; ++source) {
      if (out_.x) std::fill_n(out_.x + source * problem_.channels, problem_.channels, T(0));
      if (out_.source) std::fill_n(out_.source + source * problem_.dim, problem_.dim, T(0));
      for (const SourceRows<T>* rows : workers) add(source, source, *rows);
    }
  }

 private:
  int64_t slots_between(int64_t first_block, int64_t last_block) const {
    const auto target = [&](int64_t block) {
      return std::min(block * blocks_.size, problem_.targets);
    };
    return problem_.first_slot(target(last_block)) - problem_.first_slot(target(first_block));
  }

  void add(int64_t source, int64_t row, const SourceRows<T>& rows) const {
    if (out_.x) {
      T* to = out_.x + source * problem_.channels;
      const T* from = rows.x + row * problem_.padded_channels;
      for (int64_t c = 0; c < problem_.channels; ++c) to[c] += from[c];
    }
    if (out_.source) {
      T* to = out_.source + source * problem_.dim;
      const T* from = rows.position + row * problem_.dim;
      for (int64_t d = 0; d < problem_.dim; ++d) to[d] += from[d];
    }
  }

  const Problem<T>& problem_;
  const Blocks& blocks_;
  const Gradients<T>& out_;
  Arena arena_;
  bool staged_;
  std::vector<int64_t> rounds_;  // the first block of every round, and the end
  SourceRows<T> stage_;
};

}  // namespace ccnn_geo
