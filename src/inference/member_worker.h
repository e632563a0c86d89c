// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "inference/member_job.h"
#include "inference/slot_areas.h"
#include "inference/spinning.h"

namespace lockstep::inference::detail {

/// A copy of a member, in its process or thread: makes the model, then takes requests, calls the
/// model, and writes what it returns into their slots.
///
/// Thread-safety: none; one thread.
/// Owns: the model.
class MemberWorker {
 public:
  MemberWorker(MemberJob& job, std::size_t worker);

  /// Blocks: until the ensemble is closed.
  /// Throws: what the factory and the call with the sample throw.
  void run();

 private:
  struct Taken {
    std::size_t slot = 0;
    std::uint64_t sequence = 0;
    std::int64_t rows = 1;
  };

  [[nodiscard]] bool is_stopping() const;
  void pause_before_start();
  void make_model();
  void serve();
  void rest(std::uint32_t seen);

  // Which requests come next.
  void take_batch();
  [[nodiscard]] bool gather(const Taken& first);
  [[nodiscard]] bool look_for_more(const Taken& first);
  void claim_gathered();
  [[nodiscard]] bool fits(std::size_t slot) const;

  // What is done with them.
  void answer_batch();
  void answer(std::span<const Taken> batch);
  [[nodiscard]] at::Tensor call_model(std::span<const Taken> batch);
  [[nodiscard]] at::Tensor input_of(const Taken& taken);
  void write_output(const Taken& taken, const at::Tensor& output);
  void fail(const Taken& taken, const std::string& text);

  MemberJob& job_;
  RequestChannel& channel_;
  std::size_t worker_;
  std::size_t member_;
  workers::WorkerRecord& record_;
  bool is_process_;
  SlotAreas areas_;
  SpinBudget spin_;
  Call call_;
  std::vector<Taken> batch_;
  std::vector<Taken> more_;
};

/// Runs a copy of a member to its end. In a process, a fresh thread has the model: what the program
/// had of a pool of threads before the fork is not there.
/// Throws: as `MemberWorker::run`.
void run_member(MemberJob& job, std::size_t worker);

}  // namespace lockstep::inference::detail
