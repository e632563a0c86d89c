// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <limits>
#include <numeric>
#include <utility>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/collective/operation_queue.h"
#include "comm/collective/staged_operation.h"
#include "comm/group/calling_thread.h"
#include "comm/group/written_tensors.h"

namespace lockstep {
namespace {

void check_one_device(const Collective& call) {
  for (const auto* tensors : {&call.inputs, &call.outputs}) {
    for (const at::Tensor& tensor : *tensors) {
      TORCH_CHECK(tensor.device() == call.device(), to_string(call.op), ": one tensor is on ",
                  call.device(), ", another on ", tensor.device(), "; all must be on one device");
    }
  }
}

/// Whether this rank's outputs get other values: what only one rank gets, or gives, is the others'
/// as it was.
bool writes_outputs(const Collective& call, int rank) {
  if (call.op == CollectiveOp::Reduce) return rank == call.root;
  if (call.op == CollectiveOp::Broadcast) return rank != call.root;
  return true;
}

}  // namespace

ProcessGroup::ProcessGroup(Backend backend, LaunchEnvironment environment,
                           std::chrono::milliseconds timeout)
    : backend_(backend),
      environment_(std::move(environment)),
      timeout_(timeout),
      calling_thread_(std::make_unique<CallingThread>()) {
  CommContext context;
  context.backend = to_string(backend_);
  context.rank = rank();
  context.world_size = size();
  queue_ = std::make_unique<OperationQueue>(std::move(context),
                                            [this](const std::string& reason) { abandon(reason); });
}

ProcessGroup::~ProcessGroup() {
  if (queue_ && is_copy_of_fork()) keep_unfinished();
}

bool ProcessGroup::is_copy_of_fork() const noexcept {
  return !queue_->is_in_its_process();
}

void ProcessGroup::keep_unfinished() noexcept {
  [[maybe_unused]] auto* kept = queue_.release();
}

bool ProcessGroup::has_unfinished() const noexcept {
  return queue_->has_entries();
}

bool ProcessGroup::is_failure_shared() const noexcept {
  return queue_->is_failure_shared();
}

GroupVisit ProcessGroup::enter(const char* op) const {
  check_process(op);  // a fork may have been made while another thread was in
  GroupVisit visit(*calling_thread_, op);
  TORCH_CHECK(visit.has_entered(), op, ": ", calling_thread_->misuse());
  note_misuse();
  return visit;
}

GroupVisit ProcessGroup::begin(const char* op) const {
  GroupVisit visit = enter(op);
  check_not_closed(op);
  return visit;
}

void ProcessGroup::note_misuse() const noexcept {
  if (!calling_thread_->is_misused() || queue_->failure()) return;
  try {
    TORCH_CHECK(false, calling_thread_->misuse());
  } catch (...) {
    queue_->fail(std::current_exception());
  }
}

void ProcessGroup::check_open(const char* op) const {
  check_process(op);
  check_not_closed(op);
}

void ProcessGroup::check_not_closed(const char* op) const {
  throw_failure();
  TORCH_CHECK(!closed_, op, ": this process group is closed");
}

void ProcessGroup::check_process(const char* op) const {
  TORCH_CHECK(!is_copy_of_fork(), op, ": process ", ::getpid(),
              " is a fork of the rank that made this process group, and cannot use its copy; it "
              "makes a group of its own, or leaves the work to its parent");
}

void ProcessGroup::throw_failure() const {
  if (queue_->failure()) std::rethrow_exception(queue_->failure());
}

void ProcessGroup::fail(const OperationFailure& failure, const char* op) {
  queue_->fail(failure, op);
}

Work ProcessGroup::start(Collective call, const at::Tensor& whole) {
  const char* op = to_string(call.op);
  check_one_device(call);
  if (whole.defined()) {
    note_written(whole, op);
  } else if (writes_outputs(call, rank())) {
    note_written(call.outputs, op);
  }
  if (!call_options_.name().empty()) call.name = CallName::of(call_options_.name());
  ProcessGroup& carrier = carrier_of(call.device().type());
  return keep(carrier.start(carrier.operation_for(std::move(call)), op, call_timeout()));
}

std::unique_ptr<Operation> ProcessGroup::behind_stream(
    Collective call, std::function<std::unique_ptr<Operation>(Collective)> make) {
  const auto way = !is_reduction(call.op) && moves(call.device().type())
                       ? StagedOperation::Way::InPlace
                       : StagedOperation::Way::PinnedCopies;
  return std::make_unique<StagedOperation>(std::move(call), way, std::move(make));
}

std::unique_ptr<Operation> ProcessGroup::operation_for(Collective call) {
  if (takes(call.device().type())) return make_operation(std::move(call));
  return behind_stream(std::move(call),
                       [this](Collective staged) { return make_operation(std::move(staged)); });
}

std::unique_ptr<Operation> ProcessGroup::operation_for_send(const at::Tensor& tensor, int to,
                                                            int tag) {
  if (takes(tensor.device().type())) return make_send(tensor, to, tag);
  return behind_stream(
      Collective{.op = CollectiveOp::Scatter, .inputs = {tensor}, .outputs = {}},
      [=, this](const Collective& staged) { return make_send(staged.inputs.front(), to, tag); });
}

std::unique_ptr<Operation> ProcessGroup::operation_for_receive(const at::Tensor& tensor, int from,
                                                               int tag) {
  if (takes(tensor.device().type())) return make_receive(tensor, from, tag);
  return behind_stream(Collective{.op = CollectiveOp::Gather, .inputs = {}, .outputs = {tensor}},
                       [=, this](const Collective& staged) {
                         return make_receive(staged.outputs.front(), from, tag);
                       });
}

Work ProcessGroup::start_message(std::unique_ptr<Operation> operation, const char* op,
                                 Timeout timeout, std::uint64_t lane) {
  return Work(shared_from_this(), queue_->push_message(std::move(operation), op, timeout, lane));
}

Work ProcessGroup::start(std::unique_ptr<Operation> operation, const char* op) {
  return start(std::move(operation), op, call_timeout());
}

Work ProcessGroup::start(std::unique_ptr<Operation> operation, const char* op, Timeout timeout) {
  return Work(shared_from_this(), queue_->push(std::move(operation), op, timeout));
}

Work ProcessGroup::keep(Work work) {
  if (coalesced_ != nullptr) coalesced_->push_back(work);
  return work;
}

Work ProcessGroup::coalesced(const std::function<void()>& calls) {
  const auto visit = begin("coalesced");
  TORCH_CHECK(coalesced_ == nullptr, "coalesced: called inside of coalesced");
  std::vector<Work> parts;
  begin_coalescing();
  coalesced_ = &parts;
  const auto end = [this] {
    coalesced_ = nullptr;
    end_coalescing();
  };
  try {
    calls();
  } catch (...) {
    end();
    throw;
  }
  end();
  return Work(std::move(parts));
}

CallScope ProcessGroup::with(CallOptions options) {
  const auto visit = enter("with");
  TORCH_CHECK(!options.timeout() || options.timeout()->count() > 0, "with: the timeout is ",
              options.timeout()->count(), " ms; it must be positive");
  CallOptions merged = call_options_;
  if (options.timeout()) merged.timeout(options.timeout());
  if (!options.name().empty()) merged.name(options.name());
  std::swap(call_options_, merged);
  return CallScope(
      [group = shared_from_this(), before = std::move(merged)] { group->call_options_ = before; });
}

void ProcessGroup::barrier() {
  const auto visit = begin("barrier");
  start(Collective{}).wait();
}

at::Tensor ProcessGroup::allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const auto visit = begin("allocate");
  ProcessGroup& carrier = carrier_of(options.device().type());
  if (&carrier != this) return carrier.allocate(sizes, options);
  std::size_t bytes = c10::elementSize(c10::typeMetaToScalarType(options.dtype()));
  for (const auto size : sizes) {
    TORCH_CHECK(size >= 0 &&
                    !__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes) &&
                    bytes <= std::numeric_limits<std::size_t>::max() / 2,
                "allocate: sizes ", sizes, " are negative or too large");
  }
  // Where such tensors are staged, no memory is faster than another.
  if (!has_memory_on(options.device().type())) return at::zeros(sizes, options);
  Memory memory = allocate_on(options.device(), bytes);
  return at::from_blob(
      memory.data, sizes, [owner = std::move(memory.owner)](void*) mutable { owner.reset(); },
      options);
}

void ProcessGroup::close() {
  if (closed_ || is_copy_of_fork()) return;
  const auto visit = enter("close");
  try {
    if (queue_->failure()) {
      closed_ = true;
      std::rethrow_exception(queue_->failure());
    }
    queue_->wait_for_messages();
    // The queue is first in, first out: when the barrier is done, so is every collective before it.
    start(make_operation(Collective{}), "close").wait();
  } catch (...) {
    forget_names();
    throw;
  }
  closed_ = true;
  release();
}

void ProcessGroup::progress() noexcept {
  if (is_copy_of_fork()) return;
  const GroupVisit visit(*calling_thread_, "progress");
  if (!visit.has_entered()) return;
  queue_->progress();
  ProcessGroup& other = carrier_of(c10::kCPU);
  if (&other != this) other.progress();
}

void ProcessGroup::wait_for(std::uint64_t ticket,
                            std::optional<std::chrono::milliseconds> timeout) {
  const auto visit = enter("wait");
  queue_->wait(ticket, timeout);
  // Whether the other thread's call went to the same place on all ranks, nobody knows.
  note_misuse();
  if (calling_thread_->is_misused()) throw_failure();
}

bool ProcessGroup::is_completed(std::uint64_t ticket) {
  if (is_copy_of_fork()) return queue_->is_done(ticket) || queue_->failure() != nullptr;
  const auto visit = enter("is_completed");
  queue_->look(ticket);
  return queue_->is_done(ticket) || queue_->failure() != nullptr;
}

std::exception_ptr ProcessGroup::exception_of(std::uint64_t ticket) {
  if (is_copy_of_fork()) return queue_->is_done(ticket) ? nullptr : queue_->failure();
  const auto visit = enter("exception");
  queue_->look(ticket);
  return queue_->is_done(ticket) ? nullptr : queue_->failure();
}

void ProcessGroup::agree_on_memory(bool has_memory, const std::string& error_text) {
  const auto have_all = at::full({1}, has_memory ? 1 : 0, at::kInt);
  start(make_operation({.op = CollectiveOp::AllReduce,
                        .reduce_op = ReduceOp::Min,
                        .inputs = {have_all},
                        .outputs = {have_all}}),
        "allocate")
      .wait();
  if (have_all.item<int>() == 0) throw CommError(context_for("allocate"), error_text);
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

}  // namespace lockstep
