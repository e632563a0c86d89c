// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/backend.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "comm/group/group_core.h"
#include "native/posix/owning_process.h"

namespace lockstep {
namespace {

constexpr std::chrono::microseconds kSettleInterval{50};

std::chrono::milliseconds left_of(const Deadline& deadline) {
  return std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
}

Work work_of(GroupCore::PendingCall call) {
  return {std::move(call.group), call.sequence};
}

}  // namespace

NcclBackend::NcclBackend(GroupContext& group, std::shared_ptr<ProcessGroup> side,
                         NcclServices services, bool check_calls)
    : group_(group),
      side_(std::move(side)),
      services_(std::move(services)),
      checks_calls_(check_calls),
      peer_watch_(side_->core().backend().peer_watch()) {
  line_->check_peers = [watch = peer_watch_] {
    const std::string lost = watch ? watch() : "";
    if (!lost.empty()) throw OperationFailure{OperationFailure::Kind::PeerLost, lost, ""};
  };
}

NcclBackend::~NcclBackend() {
  if (group_.is_copy_of_fork()) {
    leave_all_alone();
    return;
  }
  watchdog_.reset();
  const std::string reason = "its process group was destroyed without close()";
  const bool is_finished = group_.is_closed() && line_->launches.empty();
  if (!is_finished && !group_.is_failure_shared()) abort(reason);
  if (!communicator_) return;
  communicator_->give_up({OperationFailure::Kind::Backend, reason, ""});
  // Kernels that do not end may still use the tensors.
  if (!communicator_->wait_until_ended()) group_.keep_unfinished();
}

void NcclBackend::leave_all_alone() noexcept {
  // In a fork the watchdog's thread is not there, its lock may be held for ever, and no device
  // answers.
  [[maybe_unused]] auto* kept_watchdog = watchdog_.release();
  native::leave_alone(std::move(communicator_));
  native::leave_alone(std::move(batch_));
  native::leave_alone(std::move(line_));
}

int NcclBackend::index_of(c10::Device device) const {
  return device.has_index() ? device.index() : services_.device->current_device();
}

void NcclBackend::abort(const std::string& reason) noexcept {
  if (communicator_) communicator_->give_up({OperationFailure::Kind::Backend, reason, ""});
  side_->core().backend().abort(reason);
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
  if (!communicator_) meet(index_of(device), op);
  check_device(device, op);
}

void NcclBackend::meet(int device, const char* op) {
  native::NcclUniqueId id{};
  auto result = native::NcclResult::Success;
  if (group_.rank() == 0) {
    const native::DeviceScope scope(*services_.device, device);
    result = services_.nccl->unique_id(id);
  }
  // Others must learn that there is none; they wait for it.
  const auto bytes = at::zeros({static_cast<std::int64_t>(id.size()) + 1}, at::kByte);
  auto* place = bytes.data_ptr<std::uint8_t>();
  std::memcpy(place, id.data(), id.size());
  place[id.size()] = static_cast<std::uint8_t>(result);
  side_->broadcast(bytes).wait();
  result = static_cast<native::NcclResult>(place[id.size()]);
  if (result != native::NcclResult::Success) {
    throw CommError(group_.context_for(op),
                    std::string("ncclGetUniqueId on rank 0: ") + native::to_string(result));
  }
  std::memcpy(id.data(), place, id.size());
  auto communicator = make_communicator(device);
  communicator->start(id);
  adopt(std::move(communicator));
}

std::shared_ptr<NcclCommunicator> NcclBackend::make_communicator(int device) {
  auto communicator =
      std::make_shared<NcclCommunicator>(services_, device, group_.rank(), group_.size());
  communicator->watch_peers(peer_watch_);
  return communicator;
}

void NcclBackend::adopt(std::shared_ptr<NcclCommunicator> communicator) {
  communicator_ = std::move(communicator);
  watchdog_ = std::make_unique<Watchdog>(services_.watch_interval,
                                         [communicator = communicator_] { communicator->look(); });
}

std::unique_ptr<Operation> NcclBackend::enqueue(NcclTask task, const char* op) {
  auto launch = batch_;
  if (!launch) {
    launch = std::make_shared<NcclLaunch>(communicator_, Deadline::after(group_.call_timeout()),
                                          is_coalescing_ ? "coalesced" : op);
  }
  auto operation = std::make_unique<NcclOperation>(line_, launch);
  task.owner = operation.get();
  launch->add(std::move(task));
  if (!batch_) {  // in the line only when nothing can throw any more
    line_->launches.push_back(launch);
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
    return std::make_unique<NcclBarrier>(line_, check_collective(*side_, call));
  }
  ensure_communicator(call.device(), op);
  NcclTask task = make_nccl_task(call, group_.rank(), group_.size(), communicator_->capability());
  if (checks_calls_) task.check = check_collective(*side_, call);
  return enqueue(std::move(task), op);
}

std::unique_ptr<Operation> NcclBackend::make_send(at::Tensor tensor, int to, int tag) {
  catch_up("send");
  TORCH_CHECK(communicator_,
              "send: NCCL's communicator is made by the group's first collective on "
              "a CUDA tensor, which must come before the first message");
  check_device(tensor.device(), "send");
  NcclTask task = make_nccl_send(tensor, to);
  if (checks_calls_) {
    task.check = check_send(
        [&](const at::Tensor& header) { return work_of(side_->core().send_own(header, to)); },
        tensor, tag);
  }
  return enqueue(std::move(task), "send");
}

std::unique_ptr<Operation> NcclBackend::make_receive(at::Tensor tensor, int from, int tag) {
  catch_up("recv");
  TORCH_CHECK(communicator_,
              "recv: NCCL's communicator is made by the group's first collective on "
              "a CUDA tensor, which must come before the first message");
  check_device(tensor.device(), "recv");
  NcclTask task = make_nccl_receive(tensor, from);
  if (checks_calls_) {
    task.check = check_receive(
        [&](const at::Tensor& header) { return work_of(side_->core().receive_own(header, from)); },
        tensor, from, tag);
  }
  return enqueue(std::move(task), "recv");
}

void NcclBackend::progress() noexcept {
  group_.progress();
  side_->progress();
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

void NcclBackend::settle(const Deadline& deadline, const char* op) {
  TORCH_CHECK(!is_coalescing_, op, ": not between coalesced calls");
  while (true) {
    progress();  // by the queue, which knows whose failure it is
    group_.throw_failure();
    if (line_->launches.empty()) return;
    line_->check_peers();
    if (deadline.has_passed()) {
      throw OperationFailure{
          OperationFailure::Kind::Timeout,
          "a call before it cannot be enqueued: " + line_->launches.front()->describe_missing(),
          ""};
    }
    std::this_thread::sleep_for(kSettleInterval);
  }
}

CommBackend::Memory NcclBackend::allocate(c10::Device device, std::size_t bytes) {
  ensure_communicator(device, "allocate");
  const Deadline deadline = Deadline::after(group_.call_timeout());
  // First make sure that all ranks want the same, then that all have it: nobody waits for memory
  // that never comes.
  group_.run(std::make_unique<NcclBarrier>(line_, check_allocation(*side_, bytes)), "allocate",
             left_of(deadline));
  const auto memory = std::make_shared<NcclMemory>(communicator_, bytes);
  const auto has_memory = at::full({1}, memory->data() != nullptr ? 1 : 0, at::kInt);
  side_->all_reduce(has_memory, ReduceOp::Min).wait(left_of(deadline));
  if (has_memory.item<int>() == 0) {
    throw CommError(
        group_.context_for("allocate"),
        std::to_string(bytes) + " bytes wanted, more than is free on " +
            (memory->data() != nullptr ? "another rank's device" : "this rank's device"));
  }
  guarded("allocate", [&] {
    settle(deadline, "allocate");
    memory->make_known(deadline);
    communicator_->run({[&, this](const NcclCallContext& c) {
      c.device.zero(memory->data(), bytes, c.device.current_stream(communicator_->device()));
    }});
  });
  return {memory->data(), memory};
}

void NcclBackend::divide_communicator(NcclBackend* child, int color, int key) {
  // Whether there is one is known alike on all ranks: it comes with a collective.
  if (!communicator_) return;
  guarded("split", [&] {
    const Deadline deadline = Deadline::after(group_.timeout());
    settle(deadline, "split");
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
      std::make_unique<NcclBackend>(part, side_->split(color, key), services_, checks_calls_);
  divide_communicator(backend.get(), color, key);
  return backend;
}

void NcclBackend::split_without_color() {
  static_cast<void>(side_->split(-1));
  divide_communicator(nullptr, -1, 0);
}

void NcclBackend::release() {
  guarded("close", [&] {
    const Deadline deadline = Deadline::after(group_.timeout());
    settle(deadline, "close");
    watchdog_.reset();
    if (communicator_) communicator_->close(deadline);
  });
  side_->close();
}

std::shared_ptr<ProcessGroup> make_nccl_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      std::shared_ptr<ProcessGroup> side,
                                                      const NcclServices& services,
                                                      bool check_calls) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Nccl, environment, timeout, [&](GroupContext& group) {
        return std::make_unique<NcclBackend>(group, std::move(side), services, check_calls);
      }));
}

}  // namespace lockstep
