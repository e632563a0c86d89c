// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/backend.h"

#include <ATen/ops/full.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "comm/group/group_core.h"
#include "comm/nccl/interfaces.h"
#include "comm/nccl/memory.h"
#include "comm/nccl/operation.h"
#include "comm/nccl/unique_id.h"
#include "native/posix/owning_process.h"

namespace lockstep {
namespace {

constexpr std::chrono::microseconds kDrainInterval{50};

std::chrono::milliseconds left_of(const Deadline& deadline) {
  return std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
}

Work work_of(GroupCore::PendingCall call) {
  return {std::move(call.group), call.sequence};
}

}  // namespace

NcclBackend::NcclBackend(GroupContext& group, std::shared_ptr<ProcessGroup> control,
                         NcclServices services, bool check_calls)
    : group_(group),
      control_(std::move(control)),
      services_(std::move(services)),
      checks_calls_(check_calls),
      peer_watch_(control_->core().backend().peer_watch()),
      queue_(std::make_shared<LaunchQueue>(peer_watch_)) {}

NcclBackend::~NcclBackend() {
  if (group_.is_copy_of_fork()) {
    leave_all_alone();
    return;
  }
  watchdog_.reset();
  const std::string reason = "its process group was destroyed without close()";
  const bool is_finished = group_.is_closed() && queue_->is_empty();
  if (!is_finished && !group_.is_failure_shared()) abort(reason);
  if (!communicator_) return;
  communicator_->abort({OperationFailure::Kind::Backend, reason, ""});
  // Kernels that do not end may still use the tensors.
  const auto limit = Deadline::after(services_.end_limit);
  if (!communicator_->wait_until_ended(limit)) group_.keep_unfinished();
}

void NcclBackend::leave_all_alone() noexcept {
  // A fork has no watchdog thread and no usable device; a lock may be held for ever.
  [[maybe_unused]] auto* kept_watchdog = watchdog_.release();
  native::leave_alone(std::move(communicator_));
  native::leave_alone(std::move(windows_));
  native::leave_alone(std::move(batch_));
  native::leave_alone(std::move(queue_));
}

int NcclBackend::index_of(c10::Device device) const {
  return device.has_index() ? device.index() : services_.device->current_device();
}

void NcclBackend::abort(const std::string& reason) noexcept {
  if (communicator_) communicator_->abort({OperationFailure::Kind::Backend, reason, ""});
  control_->core().backend().abort(reason);
}

template <typename Body>
void NcclBackend::guarded(const char* op, const Body& body) {
  try {
    body();
  } catch (const OperationFailure& failure) {
    group_.fail(failure, op);
  } catch (const std::runtime_error& error) {  // what calls of the device throw
    group_.fail({OperationFailure::Kind::Backend, error.what(), ""}, op);
  }
}

void NcclBackend::check_device(c10::Device device, const char* op) const {
  TORCH_CHECK(index_of(device) == communicator_->device(), op, ": the tensor is on ", device,
              "; this group's first call was on device ", communicator_->device(),
              ", and NCCL has one device a rank");
}

void NcclBackend::ensure_communicator(c10::Device device, const char* op) {
  if (!communicator_) start_communicator(index_of(device), op);
  check_device(device, op);
}

void NcclBackend::start_communicator(int device, const char* op) {
  const auto [result, id] = share_unique_id(services_, device, *control_);
  if (result != native::NcclResult::Success) {
    throw CommError(group_.context_for(op),
                    std::string("ncclGetUniqueId on rank 0: ") + native::to_string(result));
  }
  auto communicator = make_communicator(device);
  communicator->start(id);
  adopt(std::move(communicator));
}

std::shared_ptr<NcclCommunicator> NcclBackend::make_communicator(int device) {
  return std::make_shared<NcclCommunicator>(services_, device, group_.rank(), group_.size(),
                                            peer_watch_);
}

void NcclBackend::adopt(std::shared_ptr<NcclCommunicator> communicator) {
  communicator_ = std::move(communicator);
  windows_ = std::make_shared<WindowRegistry>(communicator_);
  watchdog_ = std::make_unique<Watchdog>(services_.watch_interval,
                                         [watched = communicator_, is_first = true]() mutable {
                                           if (std::exchange(is_first, false)) {
                                             watched->allow_captures();
                                           }
                                           watched->check_progress();
                                         });
}

std::unique_ptr<Operation> NcclBackend::enqueue(NcclTask task, const char* op) {
  auto launch = batch_;
  if (!launch) {
    OperationLimit limit{Deadline::after(group_.call_timeout()), is_coalescing_ ? "coalesced" : op};
    launch = std::make_shared<NcclLaunch>(communicator_, std::move(limit));
  }
  auto operation = std::make_unique<NcclOperation>(queue_, launch);
  task.owner = operation.get();
  launch->add(std::move(task));
  if (!batch_) {
    queue_->push(launch);  // only now, when nothing can throw any more
    if (is_coalescing_) {
      batch_ = launch;
    } else {
      launch->seal();
    }
  }
  return operation;
}

std::unique_ptr<Operation> NcclBackend::make_operation(Collective call) {
  const char* op = to_string(call.op);
  catch_up(op);
  if (call.op == CollectiveOp::Barrier) {
    return std::make_unique<NcclBarrier>(queue_, check_collective(*control_, call));
  }
  ensure_communicator(call.device(), op);
  NcclTask task = make_nccl_task(call, group_.rank(), group_.size(), communicator_->capability());
  if (checks_calls_) task.check = check_collective(*control_, call);
  return enqueue(std::move(task), op);
}

void NcclBackend::prepare_message(const at::Tensor& tensor, const char* op) {
  catch_up(op);
  TORCH_CHECK(communicator_, op,
              ": NCCL's communicator is made by the group's first collective on "
              "a CUDA tensor, which must come before the first message");
  check_device(tensor.device(), op);
}

std::unique_ptr<Operation> NcclBackend::make_send(at::Tensor tensor, int to, int tag) {
  prepare_message(tensor, "send");
  NcclTask task = make_nccl_send(tensor, to);
  if (checks_calls_) {
    const auto send_own = [&](const at::Tensor& header) {
      return work_of(control_->core().send_own(header, to));
    };
    task.check = check_send(send_own, tensor, tag);
  }
  return enqueue(std::move(task), "send");
}

std::unique_ptr<Operation> NcclBackend::make_receive(at::Tensor tensor, int from, int tag) {
  prepare_message(tensor, "recv");
  NcclTask task = make_nccl_receive(tensor, from);
  if (checks_calls_) {
    const auto receive_own = [&](const at::Tensor& header) {
      return work_of(control_->core().receive_own(header, from));
    };
    task.check = check_receive(receive_own, tensor, from, tag);
  }
  return enqueue(std::move(task), "recv");
}

void NcclBackend::progress() noexcept {
  group_.progress();
  control_->progress();
}

void NcclBackend::catch_up(const char* op) {
  progress();
  group_.check_open(op);
}

void NcclBackend::begin_coalescing() {
  is_coalescing_ = true;
}

void NcclBackend::end_coalescing() {
  is_coalescing_ = false;
  if (!batch_) return;
  std::exchange(batch_, nullptr)->seal();
  progress();
}

void NcclBackend::drain(const Deadline& deadline, const char* op) {
  TORCH_CHECK(!is_coalescing_, op, ": not between coalesced calls");
  while (true) {
    progress();  // the group's own queue knows which operation a failure belongs to
    group_.throw_failure();
    if (queue_->is_empty()) return;
    queue_->check_peers();
    if (deadline.has_passed()) {
      const std::string why = "a call before it cannot be enqueued: " + queue_->describe_missing();
      throw OperationFailure{OperationFailure::Kind::Timeout, why, ""};
    }
    std::this_thread::sleep_for(kDrainInterval);
  }
}

CommBackend::Memory NcclBackend::allocate_symmetric(c10::Device device, std::size_t bytes) {
  // NCCL has its symmetric kernels inside one host.
  return allocate(device, bytes, group_.environment().local_size >= group_.size());
}

// Not doubles, for which NCCL has no such kernels, and not halves: a sum of them may be too large
// where their average is not.
bool NcclBackend::prefers_sum(const void* data, std::size_t bytes, at::ScalarType dtype) const {
  return (dtype == at::kFloat || dtype == at::kBFloat16) && windows_ != nullptr &&
         windows_->is_symmetric(data, bytes);
}

void NcclBackend::check_graph(const char* op) {
  catch_up(op);
  if (!communicator_) return;
  guarded(op, [&] { static_cast<void>(communicator_->poll()); });
}

void NcclBackend::watch_graph(const char* op) {
  catch_up(op);
  if (!communicator_) return;
  guarded(op, [&] { communicator_->watch_current_stream(op, group_.call_timeout()); });
}

std::string NcclBackend::end_capture() {
  std::string missing = queue_->drop_captured();
  if (communicator_) communicator_->end_captured();
  return missing;
}

CommBackend::Memory NcclBackend::allocate(c10::Device device, std::size_t bytes,
                                          bool is_symmetric) {
  ensure_communicator(device, "allocate");
  const Deadline deadline = Deadline::after(group_.call_timeout());
  // First all ranks make sure that they want the same, then that all of them have it: nobody waits
  // for memory that never comes.
  group_.run(std::make_unique<NcclBarrier>(queue_, check_allocation(*control_, bytes)), "allocate",
             left_of(deadline));
  const auto memory = std::make_shared<NcclMemory>(windows_, bytes);
  const auto has_memory = at::full({1}, memory->data() != nullptr ? 1 : 0, at::kInt);
  control_->all_reduce(has_memory, ReduceOp::Min).wait(left_of(deadline));
  if (has_memory.item<int>() == 0) {
    const std::string where = memory->data() != nullptr ? "another rank's" : "this rank's";
    throw CommError(
        group_.context_for("allocate"),
        std::to_string(bytes) + " bytes wanted, more than is free on " + where + " device");
  }
  guarded("allocate", [&] {
    drain(deadline, "allocate");
    memory->register_window(is_symmetric, deadline);
    communicator_->run({[&, this](const NcclCallContext& c) {
      c.device.zero(memory->data(), bytes, c.device.current_stream(communicator_->device()));
    }});
  });
  if (is_symmetric) agree_on_symmetry(memory->data(), bytes, deadline);
  return {memory->data(), memory};
}

void NcclBackend::agree_on_symmetry(const void* data, std::size_t bytes, const Deadline& deadline) {
  const auto answer = at::full({1}, windows_->is_symmetric(data, bytes) ? 1 : 0, at::kInt);
  control_->all_reduce(answer, ReduceOp::Min).wait(left_of(deadline));
  if (answer.item<int>() != 0) return;
  windows_->use_as_ordinary(data);
  if (group_.rank() != 0 || std::exchange(has_told_, true)) return;
  logging::warning(
      "NCCL has no symmetric memory for these ranks: each of their GPUs must reach the others' "
      "memory, and NCCL_CUMEM_ENABLE and NCCL_WIN_ENABLE must not be 0; sums are not faster than "
      "averages then, and memory that was asked for as symmetric is used as any other");
}

void NcclBackend::divide_communicator(NcclBackend* child, int color, int key) {
  if (!communicator_) return;  // on all ranks alike, because a collective makes it
  guarded("split", [&] {
    const Deadline deadline = Deadline::after(group_.timeout());
    drain(deadline, "split");
    std::shared_ptr<NcclCommunicator> part;
    if (child != nullptr) part = child->make_communicator(communicator_->device());
    const auto handle = communicator_->divide(color, key, deadline);
    if (!part) return;
    part->start_as(handle);
    part->wait_until_ready(deadline, "not all ranks have come to the new group");
    child->adopt(std::move(part));
  });
}

std::unique_ptr<CommBackend> NcclBackend::make_group(GroupContext& part,
                                                     const std::vector<int>& members) {
  const int color = members.front();
  const int key = part.rank();
  auto backend =
      std::make_unique<NcclBackend>(part, control_->split(color, key), services_, checks_calls_);
  divide_communicator(backend.get(), color, key);
  return backend;
}

void NcclBackend::split_without_color() {
  static_cast<void>(control_->split(-1));
  divide_communicator(nullptr, -1, 0);
}

void NcclBackend::release() {
  guarded("close", [&] {
    const Deadline deadline = Deadline::after(group_.timeout());
    drain(deadline, "close");
    watchdog_.reset();
    if (!communicator_) return;
    windows_->deregister_all(deadline);
    communicator_->close(deadline);
  });
  control_->close();
}

namespace {

/// Only for ranks of several hosts: those of one need no network.
void name_network(const LaunchEnvironment& environment) {
  if (environment.local_size >= environment.world_size) return;
  const NcclInterfaces& interfaces = set_nccl_interfaces();
  logging::write(interfaces.has_any ? logging::Level::Info : logging::Level::Warning,
                 "rank " + std::to_string(environment.rank) + ": NCCL's sockets use " +
                     interfaces.description);
}

}  // namespace

std::shared_ptr<ProcessGroup> make_nccl_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      std::shared_ptr<ProcessGroup> control,
                                                      const NcclServices& services,
                                                      bool check_calls) {
  name_network(environment);
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Nccl, environment, timeout, [&](GroupContext& group) {
        return std::make_unique<NcclBackend>(group, std::move(control), services, check_calls);
      }));
}

}  // namespace lockstep
