// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl_process_group.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

namespace lockstep {
namespace {

constexpr std::chrono::microseconds kSettleInterval{50};

/// A failure that was found outside the queue.
class FailedOperation final : public Operation {
 public:
  explicit FailedOperation(OperationFailure failure) : failure_(std::move(failure)) {}
  bool try_start(bool) override { throw OperationFailure(failure_); }
  bool try_finish() override { return false; }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override {}
  [[nodiscard]] std::string describe_missing() const override { return failure_.reason; }

 private:
  OperationFailure failure_;
};

}  // namespace

NcclProcessGroup::NcclProcessGroup(const LaunchEnvironment& environment,
                                   std::chrono::milliseconds timeout,
                                   std::shared_ptr<ProcessGroup> side, NcclServices services,
                                   bool check_calls)
    : ProcessGroup(Backend::Nccl, environment, timeout),
      side_(std::move(side)),
      services_(std::move(services)),
      checks_calls_(check_calls) {
  line_->check_peers = [watch = peer_watch_of(*side_)] {
    const std::string lost = watch ? watch() : "";
    if (!lost.empty()) throw OperationFailure{OperationFailure::Kind::PeerLost, lost, ""};
  };
}

NcclProcessGroup::~NcclProcessGroup() {
  watchdog_.reset();
  const std::string reason = "its process group was destroyed without close()";
  const bool is_finished = is_closed() && line_->launches.empty();
  if (!is_finished && !is_failure_shared()) abandon(reason);
  // Before the tensors go that its kernels may still use.
  if (communicator_) communicator_->give_up({OperationFailure::Kind::Backend, reason, ""});
}

int NcclProcessGroup::index_of(c10::Device device) const {
  return device.has_index() ? device.index() : services_.device->current_device();
}

void NcclProcessGroup::abandon(const std::string& reason) noexcept {
  if (communicator_) communicator_->give_up({OperationFailure::Kind::Backend, reason, ""});
  abandon_other(*side_, reason);
}

template <typename Body>
void NcclProcessGroup::guarded(const char* op, const Body& body) {
  try {
    body();
  } catch (const OperationFailure& failure) {
    start(std::make_unique<FailedOperation>(failure), op).wait();
  }
}

void NcclProcessGroup::check_device(c10::Device device, const char* op) const {
  TORCH_CHECK(index_of(device) == communicator_->device(), op, ": the tensor is on ", device,
              "; this group's first call was on device ", communicator_->device(),
              ", and NCCL has one device a rank");
}

void NcclProcessGroup::ensure_communicator(c10::Device device, const char* op) {
  if (!communicator_) meet(index_of(device), op);
  check_device(device, op);
}

void NcclProcessGroup::meet(int device, const char* op) {
  native::NcclUniqueId id{};
  auto result = native::NcclResult::Success;
  if (rank() == 0) {
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
    throw CommError(context_for(op),
                    std::string("ncclGetUniqueId on rank 0: ") + native::to_string(result));
  }
  std::memcpy(id.data(), place, id.size());
  auto communicator = make_communicator(device);
  communicator->start(id);
  adopt(std::move(communicator));
}

std::shared_ptr<NcclCommunicator> NcclProcessGroup::make_communicator(int device) {
  auto communicator = std::make_shared<NcclCommunicator>(services_, device, rank(), size());
  communicator->watch_peers(peer_watch_of(*side_));
  return communicator;
}

void NcclProcessGroup::adopt(std::shared_ptr<NcclCommunicator> communicator) {
  communicator_ = std::move(communicator);
  watchdog_ = std::make_unique<Watchdog>(services_.watch_interval,
                                         [communicator = communicator_] { communicator->look(); });
}

std::unique_ptr<Operation> NcclProcessGroup::enqueue(NcclTask task, const char* op) {
  auto launch = batch_;
  if (!launch) {
    launch = std::make_shared<NcclLaunch>(communicator_, Deadline::after(call_timeout()),
                                          is_coalescing_ ? "coalesced" : op);
  }
  launch->add(std::move(task));
  if (!batch_) {  // in the line only when nothing can throw any more
    line_->launches.push_back(launch);
    if (is_coalescing_) {
      batch_ = launch;
    } else {
      launch->seal();
    }
  }
  return std::make_unique<NcclOperation>(line_, std::move(launch));
}

std::unique_ptr<Operation> NcclProcessGroup::make_operation(Collective call) {
  const char* op = to_string(call.op);
  progress();  // what the watchdog found, and tensors that are free by now
  check_open(op);
  if (call.op == CollectiveOp::Barrier) {
    return std::make_unique<NcclBarrier>(line_, check_collective(*side_, call));
  }
  ensure_communicator(call.device(), op);
  NcclTask task = make_nccl_task(call, rank(), size());
  if (checks_calls_) task.check = check_collective(*side_, call);
  return enqueue(std::move(task), op);
}

std::unique_ptr<Operation> NcclProcessGroup::make_send(at::Tensor tensor, int to, int tag) {
  progress();
  check_open("send");
  TORCH_CHECK(communicator_,
              "send: NCCL's communicator is made by the group's first collective on "
              "a CUDA tensor, which must come before the first message");
  check_device(tensor.device(), "send");
  NcclTask task = make_nccl_send(tensor, to);
  if (checks_calls_) task.check = check_send(*side_, tensor, to, tag);
  return enqueue(std::move(task), "send");
}

std::unique_ptr<Operation> NcclProcessGroup::make_receive(at::Tensor tensor, int from, int tag) {
  progress();
  check_open("recv");
  TORCH_CHECK(communicator_,
              "recv: NCCL's communicator is made by the group's first collective on "
              "a CUDA tensor, which must come before the first message");
  check_device(tensor.device(), "recv");
  NcclTask task = make_nccl_receive(tensor, from);
  if (checks_calls_) task.check = check_receive(*side_, tensor, from, tag);
  return enqueue(std::move(task), "recv");
}

void NcclProcessGroup::begin_coalescing() {
  is_coalescing_ = true;
}

void NcclProcessGroup::end_coalescing() {
  is_coalescing_ = false;
  if (!batch_) return;
  std::exchange(batch_, nullptr)->seal();
  progress();
}

void NcclProcessGroup::settle(const Deadline& deadline, const char* op) {
  TORCH_CHECK(!is_coalescing_, op, ": not between coalesced calls");
  while (!line_->launches.empty()) {
    line_->advance();
    if (line_->launches.empty()) return;
    line_->check_peers();
    if (deadline.has_passed()) {
      throw OperationFailure{OperationFailure::Kind::Timeout,
                             line_->launches.front()->describe_missing(), ""};
    }
    std::this_thread::sleep_for(kSettleInterval);
  }
}

ProcessGroup::Memory NcclProcessGroup::allocate_bytes(std::size_t bytes) {
  return allocate_on(c10::Device(services_.device_type), bytes);
}

ProcessGroup::Memory NcclProcessGroup::allocate_on(c10::Device device, std::size_t bytes) {
  ensure_communicator(device, "allocate");
  const Deadline deadline = Deadline::after(timeout());
  // First make sure that all ranks want the same, then that all have it: nobody waits for memory
  // that never comes.
  start(std::make_unique<NcclBarrier>(line_, check_allocation(*side_, bytes)), "allocate").wait();
  void* data = communicator_->allocate(bytes);
  const auto has_memory = at::full({1}, data != nullptr ? 1 : 0, at::kInt);
  side_->all_reduce(has_memory, ReduceOp::Min).wait();
  if (has_memory.item<int>() == 0) {
    if (data != nullptr) communicator_->free({data, nullptr});
    throw CommError(context_for("allocate"),
                    std::to_string(bytes) + " bytes wanted, more than is free on " +
                        (data != nullptr ? "another rank's device" : "this rank's device"));
  }
  NcclCommunicator::Memory memory;
  guarded("allocate", [&] {
    settle(deadline, "allocate");
    communicator_->wait_until_ready(deadline, "NCCL does not get ready");
    memory = communicator_->make_known(data, bytes, deadline);
    communicator_->run({[=, this](const NcclCallContext& c) {
      c.device.zero(data, bytes, c.device.current_stream(communicator_->device()));
    }});
  });
  return {data, std::shared_ptr<void>(
                    data, [memory, owner = communicator_](void*) { owner->free(memory); })};
}

void NcclProcessGroup::divide_communicator(NcclProcessGroup* child, int color, int key) {
  // Whether there is one is known alike on all ranks: it comes with a collective.
  if (!communicator_) return;
  guarded("split", [&] {
    const Deadline deadline = Deadline::after(timeout());
    settle(deadline, "split");
    communicator_->wait_until_ready(deadline, "NCCL does not get ready");
    std::shared_ptr<NcclCommunicator> part;
    if (child != nullptr) part = child->make_communicator(communicator_->device());
    communicator_->start_split(color, key);
    communicator_->wait_until_ready(deadline, "not all ranks have come to the division");
    if (!part) return;
    part->start_as(communicator_->take_part());
    part->wait_until_ready(deadline, "not all ranks have come to the new group");
    child->adopt(std::move(part));
  });
}

std::shared_ptr<ProcessGroup> NcclProcessGroup::make_group(LaunchEnvironment environment,
                                                           const std::vector<int>& members) {
  const int color = members.front();
  const int key = environment.rank;
  auto group = std::make_shared<NcclProcessGroup>(environment, timeout(), side_->split(color, key),
                                                  services_, checks_calls_);
  divide_communicator(group.get(), color, key);
  return group;
}

void NcclProcessGroup::decline_group() {
  static_cast<void>(side_->split(-1));
  divide_communicator(nullptr, -1, 0);
}

void NcclProcessGroup::release() {
  guarded("close", [&] {
    const Deadline deadline = Deadline::after(timeout());
    settle(deadline, "close");
    watchdog_.reset();
    if (communicator_) communicator_->close(deadline);
  });
  side_->close();
}

}  // namespace lockstep
