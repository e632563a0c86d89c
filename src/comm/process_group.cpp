// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/from_blob.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <numeric>
#include <utility>

#include "comm/operation.h"
#include "comm/operation_queue.h"
#include "comm/reduce_kernels.h"

namespace lockstep {
namespace {

void check_tensor(const at::Tensor& tensor, const char* op, const char* name) {
  TORCH_CHECK(tensor.defined(), op, ": ", name, " is an undefined tensor");
  TORCH_CHECK(tensor.device().is_cpu(), op, ": ", name, " is on ", tensor.device(),
              "; this backend takes CPU tensors");
  TORCH_CHECK(tensor.layout() == at::kStrided, op, ": ", name, " has layout ", tensor.layout(),
              "; it must be dense");
  TORCH_CHECK(tensor.is_non_overlapping_and_dense(), op, ": ", name, " of sizes ", tensor.sizes(),
              " has strides ", tensor.strides(), "; it must fill its memory without gaps");
}

// Where ranks' tensors may have different strides, memory order says nothing.
void check_contiguous(const at::Tensor& tensor, const char* op, const char* name) {
  check_tensor(tensor, op, name);
  TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " of sizes ", tensor.sizes(), " has strides ",
              tensor.strides(), "; it must be contiguous");
}

}  // namespace

ProcessGroup::ProcessGroup(Backend backend, LaunchEnvironment environment,
                           std::chrono::milliseconds timeout)
    : backend_(backend), environment_(std::move(environment)), timeout_(timeout) {
  CommContext context;
  context.backend = to_string(backend_);
  context.rank = rank();
  context.world_size = size();
  queue_ = std::make_unique<OperationQueue>(std::move(context),
                                            [this](const std::string& reason) { abandon(reason); });
}

ProcessGroup::~ProcessGroup() = default;

void ProcessGroup::keep_unfinished() noexcept {
  [[maybe_unused]] auto* kept = queue_.release();
}

bool ProcessGroup::is_failure_shared() const noexcept {
  return queue_->is_failure_shared();
}

void ProcessGroup::check_open(const char* op) const {
  if (queue_->failure()) std::rethrow_exception(queue_->failure());
  TORCH_CHECK(!closed_, op, ": this process group is closed");
}

Work ProcessGroup::start(std::unique_ptr<Operation> operation, const char* op) {
  return Work(shared_from_this(), queue_->push(std::move(operation), op, timeout_));
}

Work ProcessGroup::all_reduce(const at::Tensor& tensor, ReduceOp op) {
  check_open("all_reduce");
  check_tensor(tensor, "all_reduce", "the tensor");
  TORCH_CHECK(can_reduce(tensor.scalar_type(), op), "all_reduce: ", to_string(op), " of ",
              tensor.scalar_type(), " tensors is not supported",
              op == ReduceOp::Avg ? "; averages need a floating-point dtype" : "");
  return start(tensor.numel() == 0 ? make_barrier() : make_all_reduce(tensor, op), "all_reduce");
}

Work ProcessGroup::broadcast(const at::Tensor& tensor, int root) {
  check_open("broadcast");
  check_tensor(tensor, "broadcast", "the tensor");
  TORCH_CHECK(root >= 0 && root < size(), "broadcast: root is ", root,
              "; this group has ranks 0 to ", size() - 1);
  return start(tensor.numel() == 0 ? make_barrier() : make_broadcast(tensor, root), "broadcast");
}

Work ProcessGroup::all_gather(const at::Tensor& output, const at::Tensor& input) {
  check_open("all_gather");
  check_contiguous(output, "all_gather", "the output");
  check_contiguous(input, "all_gather", "the input");
  TORCH_CHECK(output.numel() == input.numel() * size(), "all_gather: the output has ",
              output.numel(), " elements; ", size(), " ranks with ", input.numel(),
              " elements each need ", input.numel() * size());
  return all_gather(output.view({size(), input.numel()}).unbind(0), input);
}

Work ProcessGroup::all_gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input) {
  check_open("all_gather");
  check_contiguous(input, "all_gather", "the input");
  TORCH_CHECK(outputs.size() == static_cast<std::size_t>(size()), "all_gather: ", outputs.size(),
              " outputs for ", size(), " ranks");
  for (const auto& output : outputs) {
    check_contiguous(output, "all_gather", "an output");
    TORCH_CHECK(output.numel() == input.numel() && output.scalar_type() == input.scalar_type(),
                "all_gather: an output has ", output.numel(), " elements of ", output.scalar_type(),
                ", the input ", input.numel(), " of ", input.scalar_type());
  }
  return start(input.numel() == 0 ? make_barrier() : make_all_gather(outputs, input), "all_gather");
}

void ProcessGroup::barrier() {
  check_open("barrier");
  start(make_barrier(), "barrier").wait();
}

at::Tensor ProcessGroup::allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  check_open("allocate");
  TORCH_CHECK(options.device().is_cpu(), "allocate: the device is ", options.device(),
              "; this backend has CPU memory");
  std::size_t bytes = c10::elementSize(c10::typeMetaToScalarType(options.dtype()));
  for (const auto size : sizes) {
    TORCH_CHECK(size >= 0 && !__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes),
                "allocate: sizes ", sizes, " are negative or too large");
  }
  Memory memory = allocate_bytes(bytes);
  return at::from_blob(
      memory.data, sizes, [owner = std::move(memory.owner)](void*) mutable { owner.reset(); },
      options);
}

void ProcessGroup::close() {
  if (closed_) return;
  if (queue_->failure()) {
    closed_ = true;
    std::rethrow_exception(queue_->failure());
  }
  // The queue is first in, first out: when the barrier is done, so is everything before it.
  start(make_barrier(), "close").wait();
  closed_ = true;
  release();
}

void ProcessGroup::progress() noexcept {
  queue_->progress();
}

void ProcessGroup::wait_for(std::uint64_t ticket,
                            std::optional<std::chrono::milliseconds> timeout) {
  queue_->wait(ticket, timeout);
}

bool ProcessGroup::is_completed(std::uint64_t ticket) {
  queue_->progress();
  return queue_->is_done(ticket) || queue_->failure() != nullptr;
}

std::exception_ptr ProcessGroup::exception_of(std::uint64_t ticket) {
  queue_->progress();
  return queue_->is_done(ticket) ? nullptr : queue_->failure();
}

CommContext ProcessGroup::context_for(const char* op) const {
  CommContext context;
  context.backend = to_string(backend_);
  context.op = op;
  context.rank = rank();
  context.world_size = size();
  context.sequence = queue_->pushed();
  return context;
}

Work::Work(std::shared_ptr<ProcessGroup> group, std::uint64_t ticket)
    : group_(std::move(group)), ticket_(ticket) {}

void Work::wait() {
  group_->wait_for(ticket_, std::nullopt);
}
void Work::wait(std::chrono::milliseconds timeout) {
  group_->wait_for(ticket_, timeout);
}
bool Work::is_completed() {
  return group_->is_completed(ticket_);
}
std::exception_ptr Work::exception() {
  return group_->exception_of(ticket_);
}

}  // namespace lockstep
