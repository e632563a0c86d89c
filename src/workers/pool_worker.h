// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/payload.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "workers/failure.h"
#include "workers/pool_memory.h"
#include "workers/task.h"

namespace lockstep::workers {

/// What a worker process does with a payload of arguments: makes one of a result. Runs the
/// program's function.
using PoolFunction = std::function<void(PayloadReader& arguments, PayloadWriter& result)>;
/// What the exception that is being handled says.
using ExceptionText = std::function<std::string()>;

/// What is known of the exception that is being handled, in this process. Call it in a catch block
/// only.
[[nodiscard]] Failure current_failure(std::size_t worker, const ExceptionText& text);

/// One worker process of a pool: reads the arguments of its tasks where they lie, and leaves the
/// results in its slot or in a block.
///
/// Thread-safety: one thread, that of the tasks. Owns: this process's mappings.
class PoolWorker {
 public:
  /// `may_repeat`: somebody else may be given a task that this worker has begun, with the arguments
  /// as they were.
  PoolWorker(std::shared_ptr<PoolMemory> memory, std::size_t worker, bool may_repeat)
      : memory_(std::move(memory)), worker_(worker), may_repeat_(may_repeat) {}

  /// Blocks: until the pool is closed, or a task has kept an argument: the memory is used again,
  /// and this process must not go on with it.
  /// Throws: nothing of the tasks; `std::system_error` when memory of the pool cannot be mapped.
  void run(const PoolFunction& function, const ExceptionText& text);

  /// A block of the pool for a tensor of the result; empty when there is none to spare, and outside
  /// of the process of a worker.
  [[nodiscard]] static std::shared_ptr<PayloadMemory> output(std::size_t bytes);

 private:
  class OutputBlock;

  /// Where a result lies, and what it consists of beside that.
  struct Result {
    std::optional<std::uint32_t> entry;  // none: in the slot
    std::vector<std::shared_ptr<PayloadMemory>> blocks;
  };

  void do_task(const Claim& claim, const PoolFunction& function,
               const std::shared_ptr<void>& guard);
  [[nodiscard]] Result compute(const Claim& claim, const PoolFunction& function,
                               const std::shared_ptr<void>& guard);
  [[nodiscard]] std::shared_ptr<PayloadMemory> argument_memory(std::uint32_t entry,
                                                               const std::shared_ptr<void>& guard);
  [[nodiscard]] Result write_result(const Claim& claim, const PayloadWriter& result);
  [[nodiscard]] std::shared_ptr<PayloadMemory> take_output(std::size_t bytes);

  std::shared_ptr<PoolMemory> memory_;
  std::size_t worker_;
  bool may_repeat_;
  std::uint64_t task_ = 0;  // its number
};

}  // namespace lockstep::workers
