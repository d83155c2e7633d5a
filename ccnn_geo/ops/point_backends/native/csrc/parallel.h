// Threads: OpenMP where the compiler has it, the standard library's otherwise.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

#if !defined(_OPENMP)
#include <system_error>
#include <thread>
#include <vector>
#endif

#include "vector_math.h"

namespace ccnn_geo {

// Runs body(0) ... body(threads - 1) side by side, and throws what the first of them to fail threw.
//
// The numbers are handed out whatever the size of the team that the runtime grants.
template <typename Body>
void parallel(int64_t threads, const Body& body) {
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&](int64_t thread) {
    const FlushDenormals flush;
    try {
      body(thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!failure) failure = std::current_exception();
    }
  };
  if (threads == 1) {
    // Without the runtime: it does not survive a fork, and a forked worker has one thread.
    run(0);
  } else {
#if defined(_OPENMP)
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; ++thread) run(thread);
#else
    std::vector<std::thread> helpers;
    helpers.reserve(threads);
    int64_t begun = 1;
    try {
      for (; begun < threads; ++begun) helpers.emplace_back(run, begun);
    } catch (const std::system_error&) {
      // No more threads to be had: this one does the work of those that are missing.
    }
    run(0);
    for (; begun < threads; ++begun) run(begun);
    for (std::thread& helper : helpers) helper.join();
#endif
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace ccnn_geo
