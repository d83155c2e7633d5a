// Threads and the distribution of work. OpenMP where the compiler supports it, else std::thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#if !defined(_OPENMP)
#include <system_error>
#include <thread>
#endif

#include "vector_math.h"

namespace ccnn_geo {

// Calls body() in up to `threads` threads. Rethrows the first exception.
template <typename Body>
void parallel(int64_t threads, const Body& body) {
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&] {
    const FlushDenormals flush;
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!failure) failure = std::current_exception();
    }
  };
  if (threads <= 1) {
    // OpenMP cannot be used in a forked process. Workers of data loaders have one thread.
    run();
  } else {
#if defined(_OPENMP)
#pragma omp parallel num_threads(static_cast<int>(threads))
    run();
#else
    std::vector<std::thread> helpers;
    try {
      while (static_cast<int64_t>(helpers.size()) + 1 < threads) helpers.emplace_back(run);
    } catch (const std::system_error&) {
      // The system has no more threads. The threads that run do all the work.
    }
    run();
    for (std::thread& helper : helpers) helper.join();
#endif
  }
  if (failure) std::rethrow_exception(failure);
}

// The items first, ..., last - 1, which may begin once the previous stage is complete. They are
// divided into strands of consecutive items. The items of one strand run one after another.
struct Stage {
  int64_t first, last, strands;

  int64_t begin(int64_t strand) const { return first + (last - first) * strand / strands; }
};

// Distributes the items of consecutive stages over threads, whenever a thread has nothing to do.
//
// A thread that is slow, or preempted by another program, delays one strand only. Threads without
// work sleep instead of spinning, which would take time from threads on the same core.
class Scheduler {
 public:
  explicit Scheduler(std::vector<Stage> stages) : stages_(std::move(stages)) { begin_stage(0); }

  // Calls body(stage, strand, item) for one item after another until none are left.
  template <typename Body>
  void work(const Body& body) {
    std::unique_lock<std::mutex> lock(guard_);
    int64_t strand = -1;
    while (stage_ < stages_.size()) {
      strand = choose(strand);
      if (strand < 0) {
        if (stage_ + 1 == stages_.size()) return;
        changed_.wait(lock);
        continue;
      }
      const size_t stage = stage_;
      const int64_t item = stages_[stage].begin(strand + 1) - left_[strand];
      held_[strand] = true;
      lock.unlock();
      try {
        body(stage, strand, item);
      } catch (...) {
        lock.lock();
        begin_stage(stages_.size());
        throw;
      }
      lock.lock();
      if (stage != stage_) return;  // another thread has failed
      held_[strand] = false;
      --left_[strand];
      if (--unfinished_ == 0) begin_stage(stage_ + 1);
    }
  }

 private:
  // Begins a stage, or the next stage that is not empty.
  void begin_stage(size_t stage) {
    while (stage < stages_.size() && stages_[stage].first == stages_[stage].last) ++stage;
    stage_ = stage;
    changed_.notify_all();
    if (stage == stages_.size()) return;
    const Stage& now = stages_[stage];
    unfinished_ = now.last - now.first;
    left_.resize(now.strands);
    held_.assign(now.strands, false);
    for (int64_t strand = 0; strand < now.strands; ++strand) {
      left_[strand] = now.begin(strand + 1) - now.begin(strand);
    }
  }

  // Returns the strand with the most items left of those that no thread holds, or -1. A thread
  // keeps its last strand, whose sums are in its cache, until other strands are far behind.
  int64_t choose(int64_t last) const {
    const int64_t strands = stages_[stage_].strands;
    int64_t best = -1;
    for (int64_t strand = 0; strand < strands; ++strand) {
      if (held_[strand] || left_[strand] == 0) continue;
      if (best < 0 || left_[strand] > left_[best]) best = strand;
    }
    const bool keep = last >= 0 && last < strands && !held_[last] && left_[last] > 0 &&
        4 * left_[last] >= left_[best];
    return keep ? last : best;
  }

  std::vector<Stage> stages_;
  std::mutex guard_;
  std::condition_variable changed_;  // a stage has begun, or all are complete
  size_t stage_ = 0;
  int64_t unfinished_ = 0;     // items of the stage
  std::vector<int64_t> left_;  // items of every strand that have not been finished
  std::vector<bool> held_;     // strands that a thread works on
};

}  // namespace ccnn_geo
