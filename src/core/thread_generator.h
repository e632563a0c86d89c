// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <functional>

namespace lockstep {

/// While it lives, what the calling thread draws from LibTorch on the CPU without naming a
/// generator comes from one of its own: `torch::rand`, dropout, `torch::randperm` and all others.
/// LibTorch itself has one for the whole process. Scopes nest; the innermost one counts.
///
/// Thread-safety: it begins and ends in one thread.
class ThreadGenerator {
 public:
  /// Asked at each draw, in the thread. Null: the process's generator.
  using Source = std::function<const at::Generator*()>;

  explicit ThreadGenerator(Source source);
  ~ThreadGenerator();
  ThreadGenerator(const ThreadGenerator&) = delete;
  ThreadGenerator& operator=(const ThreadGenerator&) = delete;

  /// What the calling thread draws from; null outside of a scope.
  [[nodiscard]] static const at::Generator* current();

 private:
  Source source_;
  const ThreadGenerator* before_;
  c10::impl::IncludeDispatchKeyGuard redirection_;
};

/// Has LibTorch ask for the calling thread's generator: once in a process, a few milliseconds. Each
/// `ThreadGenerator` does so, too.
///
/// Throws: `c10::Error` where another library uses the same means.
void redirect_draws();

}  // namespace lockstep
