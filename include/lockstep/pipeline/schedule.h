// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// The rule after which microbatches go through a pipeline. This header needs no LibTorch.

#include <lockstep/core/export.h>
#include <lockstep/pipeline/plan.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::pipeline {

/// A rule that makes plans. The orders are those of `torch.distributed.pipelining`.
///
///     const auto plan = lockstep::pipeline::one_f_one_b().plan(/*ranks=*/4, /*stages_per_rank=*/1,
///                                                              /*microbatches=*/8);
///     std::cout << plan << '\n' << plan.simulate({.forward = 1, .input = 1, .weight = 1}) << '\n';
///
/// Thread-safety: immutable after construction; copies are cheap.
class LOCKSTEP_API Schedule {
 public:
  /// Makes the plan for ranks, stages a rank and microbatches.
  using Rule = std::function<Plan(std::int64_t ranks, std::int64_t stages_per_rank,
                                  std::int64_t microbatches)>;

  /// A rule of the program's own. It must come to the same plan on all ranks.
  Schedule(std::string name, Rule rule);

  /// For messages: "1F1B".
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// The plan, which has passed `Plan::check()`.
  /// Throws: `c10::Error` for numbers below 1, for numbers with which this schedule cannot run, and
  /// for a rule whose plan has other numbers or fails the check.
  [[nodiscard]] Plan plan(std::int64_t ranks, std::int64_t stages_per_rank,
                          std::int64_t microbatches) const;

 private:
  std::string name_;
  Rule rule_;
};

/// All forwards, then all backwards. It holds all microbatches at once. With several stages a rank,
/// all microbatches go through a rank's stage before any goes through its next one.
[[nodiscard]] LOCKSTEP_API Schedule gpipe();
/// One forward, one backward in turns as soon as the pipeline is full: it waits as long as
/// `gpipe()` and holds as many microbatches as there are ranks. One stage a rank, and at least as
/// many microbatches as ranks.
[[nodiscard]] LOCKSTEP_API Schedule one_f_one_b();
/// 1F1B with several stages a rank (`r`, `r + ranks`, ...): it waits as many times less.
/// Microbatches go in rounds of about as many as there are ranks: max(1, microbatches / ranks)
/// rounds must divide the number of microbatches.
[[nodiscard]] LOCKSTEP_API Schedule interleaved();
/// ZB1P: backwards come in two parts, and the gradients of weights fill the time in which a rank
/// would wait. Any number of stages a rank; rounds as for `interleaved()`.
[[nodiscard]] LOCKSTEP_API Schedule zero_bubble();
/// Zero bubble with two stages a rank in a V: rank `r` has stage `r` and stage `2 * ranks - 1 - r`.
[[nodiscard]] LOCKSTEP_API Schedule zbv();
/// The plan of this text, in the form of `Plan::to_csv()`, and no other.
/// Throws: `c10::Error` as `Plan::from_csv` and `Plan::check()`.
[[nodiscard]] LOCKSTEP_API Schedule from_text(std::string_view text);
/// The same from a file of at most 16 MiB.
/// Throws: `c10::Error` when the file cannot be read, and as `from_text`, with the file's name.
[[nodiscard]] LOCKSTEP_API Schedule from_file(const std::string& path);
/// The schedule with this name, for command lines: `gpipe`, `1f1b`, `interleaved`, `zero_bubble` or
/// `zbv`.
/// Throws: `c10::Error` for another name, with these names.
[[nodiscard]] LOCKSTEP_API Schedule schedule_named(std::string_view name);

}  // namespace lockstep::pipeline
