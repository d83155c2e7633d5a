// Gradients of the sources: every strand contributes to many sources, and contributions are summed
// in a fixed order.
#pragma once

#include "gradients.h"

namespace ccnn_geo {

// Rows of gradients of sources: one row per source, or (in rounds) one per edge.
template <typename T>
struct SourceRows {
  T* x = nullptr;            // [rows, padded C] or null
  T* position = nullptr;     // [rows, D] or null
  int64_t first = 0;         // one row per source: the sources first, ..., last - 1
  int64_t last = 0;
  int64_t* owner = nullptr;  // one row per edge: its source
  int64_t next = 0;          // one row per edge: the first free row

  // Finds the row of every edge of a tile. Rows of edges are set to zero.
  void assign(const Problem<T>& problem, const Tile<T>& tile, int64_t* row) {
    for (int64_t edge = 0; edge < tile.count; ++edge) {
      row[edge] = owner ? next++ : tile.source[edge] - first;
      if (!owner) continue;
      owner[row[edge]] = tile.source[edge];
      if (x) std::fill_n(x + row[edge] * problem.padded_channels, problem.padded_channels, T(0));
      if (position) std::fill_n(position + row[edge] * problem.dim, problem.dim, T(0));
    }
  }
};

// Sums the gradients of the sources, in bounded memory.
//
// If rows for the sources of all strands fit into `buffer_bytes`, each strand sums into rows of its
// own, which are added up at the end. Otherwise the blocks are processed in rounds: every edge of a
// round has a row, and the rows are added up, in the order of the edges, at the end of the round.
template <typename T>
class SourceGradients {
 public:
  SourceGradients(const Problem<T>& problem, const Blocks& blocks, const Gradients<T>& out)
      : problem_(problem), blocks_(blocks), out_(out), strands_(count_strands(problem, blocks)),
        rounds_{0} {
    const int64_t row_bytes = sizeof(T) *
        ((out.x ? problem.padded_channels : 0) + (out.source ? problem.dim : 0));
    const int64_t affordable = problem.buffer_bytes / std::max<int64_t>(row_bytes, 1);
    staged_ = row_bytes > 0 && !fit_strands(affordable);
    if (staged_) {
      begin_rounds(affordable);
    } else if (blocks.count > 0) {
      rounds_.push_back(blocks.count);
    }
  }

  bool staged() const { return staged_; }
  int64_t strands() const { return strands_; }
  int64_t rounds() const { return static_cast<int64_t>(rounds_.size()) - 1; }
  int64_t first_block(int64_t round) const { return rounds_[round]; }

  // Returns the rows of a strand, or the rows of the rounds.
  SourceRows<T> rows(int64_t strand, Arena& arena) const {
    if (staged_) return stage_;
    SourceRows<T> rows;
    if (!out_.x && !out_.source) return rows;
    rows.first = windows_[strand].first;
    rows.last = windows_[strand].last;
    const int64_t size = rows.last - rows.first;
    if (out_.x) rows.x = arena.zeros<T>(size * problem_.padded_channels);
    if (out_.source) rows.position = arena.zeros<T>(size * problem_.dim);
    return rows;
  }

  // To be called before and after each block, whose rows have a fixed place in the round.
  void begin_block(int64_t round, int64_t block, SourceRows<T>& rows) const {
    if (staged_) rows.next = slots_between(rounds_[round], block);
  }
  void end_block(int64_t round, int64_t block, SourceRows<T>& rows) const {
    if (!staged_) return;
    int64_t* end = stage_.owner + slots_between(rounds_[round], block + 1);
    std::fill(stage_.owner + rows.next, end, -1);
  }

  // Adds a round's rows to the gradients, for one of several equal shares of the sources.
  void end_round(int64_t round, int64_t share, int64_t shares) const {
    const int64_t first = problem_.sources * share / shares;
    const int64_t last = problem_.sources * (share + 1) / shares;
    if (round == 0) clear(first, last);
    const int64_t rows = slots_between(rounds_[round], rounds_[round + 1]);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t source = stage_.owner[row];
      if (source >= first && source < last) add(source, row, stage_);
    }
  }

  // Adds up the rows of all strands, for one of several equal shares of the sources.
  void finish(
      const std::vector<const SourceRows<T>*>& strands, int64_t share, int64_t shares) const {
    const int64_t first = problem_.sources * share / shares;
    const int64_t last = problem_.sources * (share + 1) / shares;
    clear(first, last);
    for (const SourceRows<T>* rows : strands) {
      const int64_t end = std::min(last, rows->last);
      for (int64_t source = std::max(first, rows->first); source < end; ++source) {
        add(source, source - rows->first, *rows);
      }
    }
  }

 private:
  // A range that contains the sources of all edges of a strand: first, ..., last - 1.
  struct Window {
    int64_t first, last;

    int64_t size() const { return std::max<int64_t>(last - first, 0); }
  };

  // Computes the windows. Halves the number of strands, down to a few, until their rows are at most
  // `affordable`. Returns false if they are still more.
  bool fit_strands(int64_t affordable) {
    constexpr int64_t kFewest = 8;
    for (int64_t strand = 0; strand < strands_; ++strand) windows_.push_back(window(strand));
    const auto total = [&] {
      int64_t sum = 0;
      for (const Window& each : windows_) sum += each.size();
      return sum;
    };
    while (total() > affordable && strands_ > kFewest) {
      strands_ /= 2;
      for (int64_t strand = 0; strand < strands_; ++strand) {
        const Window &one = windows_[2 * strand], &other = windows_[2 * strand + 1];
        windows_[strand] = {std::min(one.first, other.first), std::max(one.last, other.last)};
      }
      windows_.resize(strands_);
    }
    return total() <= affordable;
  }

  Window window(int64_t strand) const {
    const Stage all{0, blocks_.count, strands_};
    const auto slot = [&](int64_t bound) {
      return problem_.first_slot(blocks_.begin(problem_, all.begin(bound)));
    };
    const int64_t end = slot(strand + 1), sources = problem_.sources;
    int64_t first = sources, last = 0;
    for (int64_t i = slot(strand); i < end; ++i) {
      const int64_t source = problem_.index[i];
      const bool valid = static_cast<uint64_t>(source) < static_cast<uint64_t>(sources);
      first = std::min(first, valid ? source : sources);
      last = std::max(last, valid ? source + 1 : 0);
    }
    return {first, last};
  }

  void begin_rounds(int64_t affordable) {
    int64_t most = 0;
    for (int64_t block = 0; block < blocks_.count; ++block) {
      const bool fits = slots_between(rounds_.back(), block + 1) <= affordable;
      if (!fits && block > rounds_.back()) rounds_.push_back(block);
      most = std::max(most, slots_between(rounds_.back(), block + 1));
    }
    rounds_.push_back(blocks_.count);
    stage_.x = out_.x ? arena_.take<T>(most * problem_.padded_channels) : nullptr;
    stage_.position = out_.source ? arena_.take<T>(most * problem_.dim) : nullptr;
    stage_.owner = arena_.take<int64_t>(most);
  }

  int64_t slots_between(int64_t first_block, int64_t last_block) const {
    return problem_.first_slot(blocks_.begin(problem_, last_block)) -
        problem_.first_slot(blocks_.begin(problem_, first_block));
  }

  void clear(int64_t first, int64_t last) const {
    const int64_t count = last - first, channels = problem_.channels, dim = problem_.dim;
    if (out_.x) std::fill_n(out_.x + first * channels, count * channels, T(0));
    if (out_.source) std::fill_n(out_.source + first * dim, count * dim, T(0));
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
  int64_t strands_;
  bool staged_ = false;
  std::vector<Window> windows_;  // one per strand
  std::vector<int64_t> rounds_;  // the first block of every round, and the number of blocks
  SourceRows<T> stage_;
};

}  // namespace ccnn_geo
