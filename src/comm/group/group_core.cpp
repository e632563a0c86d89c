// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/group_core.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <lockstep/core/error.h>

#include <limits>
#include <string>
#include <utility>

#include "comm/collective/collective.h"
#include "comm/collective/message.h"
#include "comm/collective/operation.h"
#include "comm/collective/progress_queue.h"
#include "comm/collective/staged_operation.h"
#include "comm/group/captured_groups.h"
#include "comm/group/written_tensors.h"
#include "native/cuda/graph_stream.h"

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

/// Whether this rank's outputs get other values. Where one rank alone receives, the others' tensors
/// stay as they are; where one rank alone sends, its own does.
bool writes_outputs(const Collective& call, int rank) {
  if (call.op == CollectiveOp::Reduce) return rank == call.root;
  if (call.op == CollectiveOp::Broadcast) return rank != call.root;
  return true;
}

/// A number that messages which must not overtake each other have in common, and no others have.
std::uint64_t lane_of(int peer, int tag, bool is_sent) {
  const auto line = 2 * static_cast<std::uint64_t>(peer) + (is_sent ? 1 : 0);
  return line << 32 | static_cast<std::uint32_t>(tag);
}

std::size_t bytes_of(at::IntArrayRef sizes, const at::TensorOptions& options) {
  std::size_t bytes = c10::elementSize(c10::typeMetaToScalarType(options.dtype()));
  for (const auto size : sizes) {
    TORCH_CHECK(size >= 0 &&
                    !__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes) &&
                    bytes <= std::numeric_limits<std::size_t>::max() / 2,
                "allocate: sizes ", sizes, " are negative or too large");
  }
  return bytes;
}

}  // namespace

GroupCore::GroupCore(Backend kind, LaunchEnvironment environment, Timeout timeout)
    : GroupContext(kind, std::move(environment), timeout,
                   [this](const std::string& reason) { backend_->abort(reason); }) {}

std::shared_ptr<GroupCore> GroupCore::make(Backend kind, LaunchEnvironment environment,
                                           Timeout timeout, const MakeBackend& make_backend) {
  auto core = std::make_shared<GroupCore>(kind, std::move(environment), timeout);
  core->backend_ = make_backend(*core);
  core->backend_->start();
  return core;
}

GroupCore& GroupCore::group_for(c10::DeviceType device) {
  GroupCore* other = backend_->group_for(device);
  return other == nullptr ? *this : *other;
}

GroupCore& GroupCore::group_for_call(c10::DeviceType device) {
  GroupCore& group = group_for(device);
  if (CapturedGroups::is_open() && group.backend_->can_be_captured()) {
    CapturedGroups::note(group.shared_from_this());
  }
  return group;
}

GroupVisit GroupCore::begin(const char* op) const {
  GroupVisit visit = enter(op);
  check_not_closed(op);
  return visit;
}

GroupCore::PendingCall GroupCore::start(Collective call, const at::Tensor& whole) {
  const char* op = to_string(call.op);
  check_one_device(call);
  if (whole.defined()) {
    note_written(whole, op);
  } else if (writes_outputs(call, rank())) {
    note_written(call.outputs, op);
  }
  if (!options().name().empty()) call.name = CallName::of(options().name());
  GroupCore& group = group_for_call(call.device().type());
  auto operation = group.operation_for(std::move(call));
  return {group.shared_from_this(), group.queue().push(std::move(operation), op, call_timeout())};
}

GroupCore::PendingCall GroupCore::send(const at::Tensor& tensor, int to, int tag) {
  return group_for_call(tensor.device().type()).start_send(tensor, to, tag, call_timeout());
}

GroupCore::PendingCall GroupCore::receive(const at::Tensor& tensor, int from, int tag) {
  note_written(tensor, "recv");
  return group_for_call(tensor.device().type()).start_receive(tensor, from, tag, call_timeout());
}

GroupCore::PendingCall GroupCore::send_own(const at::Tensor& tensor, int to) {
  check_open("send");
  return start_send(tensor, to, kOwnTag, timeout());
}

GroupCore::PendingCall GroupCore::receive_own(const at::Tensor& tensor, int from) {
  check_open("recv");
  return start_receive(tensor, from, kOwnTag, timeout());
}

GroupCore::PendingCall GroupCore::start_send(const at::Tensor& tensor, int to, int tag,
                                             Timeout timeout) {
  auto operation = operation_for_send(tensor, to, tag);
  return {shared_from_this(),
          queue().push_message(std::move(operation), "send", timeout, lane_of(to, tag, true))};
}

GroupCore::PendingCall GroupCore::start_receive(const at::Tensor& tensor, int from, int tag,
                                                Timeout timeout) {
  auto operation = operation_for_receive(tensor, from, tag);
  return {shared_from_this(),
          queue().push_message(std::move(operation), "recv", timeout, lane_of(from, tag, false))};
}

std::unique_ptr<Operation> GroupCore::stream_ordered(
    Collective call, std::function<std::unique_ptr<Operation>(Collective)> make) {
  const auto mode = !is_reduction(call.op) && backend_->moves_data_on(call.device().type())
                        ? StagedOperation::Mode::InPlace
                        : StagedOperation::Mode::PinnedCopies;
  return std::make_unique<StagedOperation>(std::move(call), mode, std::move(make));
}

std::unique_ptr<Operation> GroupCore::operation_for(Collective call) {
  if (backend_->supports(call.device().type())) return backend_->make_operation(std::move(call));
  return stream_ordered(std::move(call), [this](Collective staged) {
    return backend_->make_operation(std::move(staged));
  });
}

std::unique_ptr<Operation> GroupCore::operation_for_send(const at::Tensor& tensor, int to,
                                                         int tag) {
  if (backend_->supports(tensor.device().type())) return backend_->make_send(tensor, to, tag);
  return stream_ordered(Collective{.op = CollectiveOp::Scatter, .inputs = {tensor}, .outputs = {}},
                        [=, this](const Collective& staged) {
                          return backend_->make_send(staged.inputs.front(), to, tag);
                        });
}

std::unique_ptr<Operation> GroupCore::operation_for_receive(const at::Tensor& tensor, int from,
                                                            int tag) {
  if (backend_->supports(tensor.device().type())) return backend_->make_receive(tensor, from, tag);
  return stream_ordered(Collective{.op = CollectiveOp::Gather, .inputs = {}, .outputs = {tensor}},
                        [=, this](const Collective& staged) {
                          return backend_->make_receive(staged.outputs.front(), from, tag);
                        });
}

void GroupCore::begin_coalescing(std::vector<Work>& parts) {
  backend_->begin_coalescing();
  coalesced_ = &parts;
}

void GroupCore::end_coalescing() {
  coalesced_ = nullptr;
  backend_->end_coalescing();
}

CallScope GroupCore::with(CallOptions options) {
  const auto visit = enter("with");
  TORCH_CHECK(!options.timeout() || options.timeout()->count() > 0, "with: the timeout is ",
              options.timeout()->count(), " ms; it must be positive");
  CallOptions merged = this->options();
  if (options.timeout()) merged.timeout(options.timeout());
  if (!options.name().empty()) merged.name(options.name());
  swap_options(merged);
  return CallScope([core = shared_from_this(), before = std::move(merged)] {
    CallOptions again = before;
    core->swap_options(again);
  });
}

at::Tensor GroupCore::allocate(at::IntArrayRef sizes, const at::TensorOptions& options,
                               bool is_symmetric) {
  const auto visit = begin("allocate");
  GroupCore& group = group_for(options.device().type());
  if (&group != this) return group.allocate(sizes, options, is_symmetric);
  const std::size_t bytes = bytes_of(sizes, options);
  // Tensors of a device without registered memory are staged, so that ordinary memory is as fast.
  if (!backend_->has_memory_on(options.device().type())) return at::zeros(sizes, options);
  CommBackend::Memory memory = is_symmetric ? backend_->allocate_symmetric(options.device(), bytes)
                                            : backend_->allocate(options.device(), bytes);
  return at::from_blob(
      memory.data, sizes, [owner = std::move(memory.owner)](void*) mutable { owner.reset(); },
      options);
}

bool GroupCore::prefers_sum(const at::Tensor& tensor) {
  const auto& backend = group_for(tensor.device().type()).backend();
  return backend.prefers_sum(tensor.const_data_ptr(), tensor.nbytes(), tensor.scalar_type());
}

bool GroupCore::can_be_captured(c10::DeviceType device) {
  const auto& backend = group_for(device).backend();
  return size() == 1 || (backend.supports(device) && backend.can_be_captured());
}

void GroupCore::check_graph(c10::DeviceType device, const char* op) {
  const auto visit = begin(op);
  group_for(device).backend().check_graph(op);
}

void GroupCore::add_graph(std::weak_ptr<native::GraphStream> graph) {
  std::erase_if(graphs_, [&graph](const auto& other) {
    const bool is_same = !other.owner_before(graph) && !graph.owner_before(other);
    return is_same || other.expired();
  });
  graphs_.push_back(std::move(graph));
}

void GroupCore::drop_graphs() {
  for (const auto& weak : std::exchange(graphs_, {})) {
    if (const auto graph = weak.lock()) graph->drop_graph();
  }
}

void GroupCore::watch_graph(c10::DeviceType device, const char* op) {
  const auto visit = begin(op);
  group_for(device).backend().watch_graph(op);
}

std::string GroupCore::end_capture() noexcept {
  const GroupVisit visit = try_enter("graphed step");
  if (!visit.has_entered() || queue().failure()) return "";
  std::string missing;
  try {
    missing = backend_->end_capture();
  } catch (...) {  // what they wait for ends them, or their deadline does
  }
  progress();
  return missing;
}

void GroupCore::close() {
  if (is_closed() || is_copy_of_fork()) return;
  const auto visit = enter("close");
  drop_graphs();
  try {
    if (queue().failure()) {
      set_closed();
      std::rethrow_exception(queue().failure());
    }
    queue().wait_for_messages();
    // The queue is first in, first out: when the barrier is done, so is every collective before it.
    run(backend_->make_operation(Collective{}), "close");
  } catch (...) {
    backend_->forget_names();
    throw;
  }
  set_closed();
  backend_->release();
}

void GroupCore::try_progress() noexcept {
  if (is_copy_of_fork()) return;
  const GroupVisit visit = try_enter("progress");
  if (!visit.has_entered()) return;
  progress();
  GroupCore& other = group_for(c10::kCPU);
  if (&other != this) other.try_progress();
}

bool GroupCore::is_completed(std::uint64_t sequence) {
  if (is_copy_of_fork()) return queue().is_done(sequence) || queue().failure() != nullptr;
  const auto visit = enter("is_completed");
  queue().poll(sequence);
  return queue().is_done(sequence) || queue().failure() != nullptr;
}

std::exception_ptr GroupCore::exception_of(std::uint64_t sequence) {
  if (is_copy_of_fork()) return queue().is_done(sequence) ? nullptr : queue().failure();
  const auto visit = enter("exception");
  queue().poll(sequence);
  return queue().is_done(sequence) ? nullptr : queue().failure();
}

}  // namespace lockstep
