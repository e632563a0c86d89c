// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <lockstep/workers/task_pool.h>

#include <utility>

#include "workers/pool_core.h"
#include "workers/pool_worker.h"

namespace lockstep {
namespace {

void check_tensor_options(const char* who, const at::TensorOptions& options) {
  TORCH_CHECK(
      options.device().is_cpu() && options.layout() == at::kStrided && !options.requires_grad(),
      who, ": the pool's memory is for dense tensors on the CPU without requires_grad, not ",
      options);
  const auto format = options.memory_format_opt().value_or(at::MemoryFormat::Contiguous);
  TORCH_CHECK(format == at::MemoryFormat::Contiguous && !options.pinned_memory(), who,
              ": the pool's memory is neither pinned nor for another memory format than "
              "contiguous, not ",
              options);
}

std::size_t bytes_of(const char* who, at::IntArrayRef sizes, const at::TensorOptions& options) {
  for (const auto size : sizes) {
    TORCH_CHECK(size >= 0, who, ": the sizes are ", sizes, "; none of them may be negative");
  }
  return at::detail::computeStorageNbytesContiguous(sizes, options.dtype().itemsize());
}

}  // namespace

TaskPool::TaskPool(TaskPoolOptions options) : port_(std::make_shared<workers::TaskPort>(options)) {}

TaskPool::~TaskPool() {
  port_->core().close();
}

at::Tensor TaskPool::empty(at::IntArrayRef sizes, at::TensorOptions options) {
  constexpr const char* kName = "TaskPool::empty";
  check_tensor_options(kName, options);
  const auto bytes = bytes_of(kName, sizes, options);
  TORCH_CHECK(port_->core().is_ours(), kName,
              ": this is a copy in a fork of the program, and the pool is not there");
  if (port_->has_threads()) return at::empty(sizes, options);
  auto memory = port_->core().take_block(bytes);
  TORCH_CHECK(memory, kName,
              ": too many of its tensors are alive; let some of them go, or raise "
              "TaskPoolOptions::leases, which is ",
              port_->options().leases());
  return workers::tensor_in(std::move(memory), sizes, c10::typeMetaToScalarType(options.dtype()));
}

std::size_t TaskPool::cancel_all() {
  return port_->core().is_ours() ? port_->core().cancel_all() : 0;
}

bool TaskPool::close(std::chrono::milliseconds limit) {
  auto& core = port_->core();
  if (!core.is_ours()) return true;
  core.refuse_tasks();
  const bool is_over = core.drain(limit);
  core.close();
  return is_over && !core.loss();
}

TaskPoolStatistics TaskPool::statistics() {
  auto& core = port_->core();
  TaskPoolStatistics statistics;
  if (!core.is_ours()) return statistics;
  const auto counts = core.counts();
  statistics.submitted = counts.submitted;
  statistics.finished = counts.finished;
  statistics.failed = counts.failed;
  statistics.cancelled = counts.cancelled;
  statistics.running = counts.running;
  statistics.waiting = counts.waiting;
  statistics.workers = counts.workers;
  statistics.replaced_workers = core.restarts();
  statistics.leased = core.memory()->leased();
  statistics.copied = core.memory()->copied();
  return statistics;
}

at::Tensor task_output(at::IntArrayRef sizes, at::TensorOptions options) {
  constexpr const char* kName = "task_output";
  check_tensor_options(kName, options);
  auto memory = workers::PoolWorker::output(bytes_of(kName, sizes, options));
  if (!memory) return at::empty(sizes, options);
  return workers::tensor_in(std::move(memory), sizes, c10::typeMetaToScalarType(options.dtype()));
}

}  // namespace lockstep
