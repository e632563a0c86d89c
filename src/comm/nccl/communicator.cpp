// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/communicator.h"

#include <chrono>
#include <exception>
#include <thread>

namespace lockstep {
namespace {

using native::DeviceScope;
using native::NcclResult;

// NCCL needs a large part of a second to connect ranks.
constexpr std::chrono::microseconds kCommunicatorPollInterval{200};

}  // namespace

NcclCommunicator::NcclCommunicator(NcclServices services, int device, int rank, int world_size,
                                   PeerWatch peer_watch)
    : services_(std::move(services)),
      device_(device),
      capability_(services_.device->compute_capability(device)),
      rank_(rank),
      world_size_(world_size),
      resources_(std::make_shared<CommunicatorResources>(services_, device)),
      peer_watch_(std::move(peer_watch)) {}

NcclCommunicator::~NcclCommunicator() {
  abort({OperationFailure::Kind::Backend, "the communicator was left without close()", ""});
}

void NcclCommunicator::start(const native::NcclUniqueId& id) {
  const std::lock_guard lock(mutex_);
  try {
    const DeviceScope scope(*services_.device, device_);
    const NcclResult result =
        services_.nccl->comm_init(&resources_->communicator, world_size_, id, rank_);
    handle_ = resources_->communicator;
    check_locked(result, "ncclCommInitRankConfig");
  } catch (const OperationFailure&) {  // kept for `poll`
  } catch (const std::exception& error) {
    fail_locked({OperationFailure::Kind::Backend, error.what(), ""});
  }
}

native::NcclCommunicatorHandle NcclCommunicator::divide(int color, int key,
                                                        const Deadline& deadline) {
  native::NcclCommunicatorHandle& part = resources_->part;
  wait_until_ready(deadline, "NCCL does not get ready", [&](const NcclCallContext& c) {
    part = nullptr;
    c.check(c.nccl.comm_split(c.communicator, color, key, &part), "ncclCommSplit");
  });
  wait_until_ready(deadline, "not all ranks have come to the division");
  const std::lock_guard lock(mutex_);
  throw_failure_locked();
  return std::exchange(part, nullptr);
}

void NcclCommunicator::start_as(native::NcclCommunicatorHandle part) {
  const std::lock_guard lock(mutex_);
  handle_ = part;
  if (part == nullptr) {
    fail_and_throw_locked({OperationFailure::Kind::Backend, "ncclCommSplit gave no part", ""});
  }
}

bool NcclCommunicator::poll() {
  const std::lock_guard lock(mutex_);
  return poll_locked();
}

bool NcclCommunicator::poll_locked() {
  throw_failure_locked();
  if (is_lent_) return false;
  NcclResult state = NcclResult::Success;
  check_locked(services_.nccl->async_error(handle_, &state), "ncclCommGetAsyncError");
  check_locked(state, "NCCL");
  return state != NcclResult::InProgress;
}

void NcclCommunicator::wait_until_ready(const Deadline& deadline, const std::string& what,
                                        const NcclCall& next) {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (poll_locked()) {
        if (!next) return;
        const DeviceScope scope(*services_.device, device_);
        try {
          return next(context_locked());
        } catch (const OperationFailure& failure) {
          fail_and_throw_locked(failure);
        }
      }
      if (deadline.has_passed()) fail_and_throw_locked(nccl_timeout(what, deadline));
      check_peers_locked(what);
    }
    std::this_thread::sleep_for(kCommunicatorPollInterval);
  }
}

NcclCallContext NcclCommunicator::context_locked() const {
  return {*services_.nccl, *services_.device, handle_, stream(), rank_, world_size_};
}

bool NcclCommunicator::try_enqueue(const std::vector<NcclCall>& preparations,
                                   const std::vector<NcclCall>& calls,
                                   const OperationLimit& limit) {
  const std::lock_guard lock(mutex_);
  if (!poll_locked()) return false;
  in_flight_.begin(limit);
  const NcclCallContext context = context_locked();
  try {
    const DeviceScope scope(*services_.device, device_);
    for (const NcclCall& prepare : preparations) prepare(context);
    if (calls.empty()) return true;
    context.check(services_.nccl->group_start(), "ncclGroupStart");
    std::exception_ptr error;
    try {
      for (const NcclCall& call : calls) call(context);
    } catch (...) {
      error = std::current_exception();
    }
    // Also after an error: an open group would swallow whatever this thread calls next.
    const NcclResult result = services_.nccl->group_end();
    if (error) std::rethrow_exception(error);
    context.check(result, "ncclGroupEnd");
    return true;
  } catch (const OperationFailure& failure) {
    fail_and_throw_locked(failure);
  } catch (const std::exception& error) {
    fail_and_throw_locked({OperationFailure::Kind::Backend, error.what(), ""});
  }
}

void NcclCommunicator::run(const std::vector<NcclCall>& calls) {
  const std::lock_guard lock(mutex_);
  throw_failure_locked();
  const DeviceScope scope(*services_.device, device_);
  for (const NcclCall& call : calls) call(context_locked());
}

std::shared_ptr<InFlightOperation> NcclCommunicator::record_end(OperationLimit limit) {
  const std::lock_guard lock(mutex_);
  throw_failure_locked();
  const DeviceScope scope(*services_.device, device_);
  auto operation = std::make_shared<InFlightOperation>(services_, device_, std::move(limit));
  operation->is_captured = services_.device->is_capturing(stream());
  operation->end.record(stream());
  if (operation->is_captured) {
    in_flight_.drop_begun();  // an event of a graph cannot be asked
    std::erase_if(captured_, [](const auto& other) { return other.expired(); });
    captured_.push_back(operation);
  } else {
    in_flight_.push(operation);
  }
  return operation;
}

void NcclCommunicator::note_ordered(InFlightOperation& operation) {
  const std::lock_guard lock(mutex_);
  if (operation.is_captured) operation.is_done = true;
}

void NcclCommunicator::end_captured() {
  const std::lock_guard lock(mutex_);
  for (const auto& weak : std::exchange(captured_, {})) {
    if (const auto operation = weak.lock()) operation->is_done = operation->is_capture_over = true;
  }
}

bool NcclCommunicator::is_capture_over(const InFlightOperation& operation) {
  const std::lock_guard lock(mutex_);
  return operation.is_capture_over;
}

void NcclCommunicator::watch_current_stream(const std::string& op,
                                            std::chrono::milliseconds timeout) {
  const std::lock_guard lock(mutex_);
  throw_failure_locked();
  drop_done_locked();
  const DeviceScope scope(*services_.device, device_);
  auto operation = std::make_shared<InFlightOperation>(
      services_, device_, OperationLimit{Deadline::after(timeout), op});
  operation->time_alone = timeout;
  operation->end.record(services_.device->current_stream(device_));
  in_flight_.push(std::move(operation));
}

bool NcclCommunicator::is_done(InFlightOperation& operation) {
  const std::lock_guard lock(mutex_);
  if (operation.is_done) return true;
  throw_failure_locked();
  if (operation.is_captured) return false;
  drop_done_locked();
  if (operation.is_done) return true;
  static_cast<void>(poll_locked());  // an error of NCCL's own does not end the event
  return false;
}

void NcclCommunicator::drop_done_locked() {
  try {
    in_flight_.drop_done();
  } catch (const std::exception& error) {
    fail_and_throw_locked({OperationFailure::Kind::Backend, error.what(), ""});
  }
}

std::unique_ptr<NcclCommunicator::Loan> NcclCommunicator::try_borrow(
    std::optional<native::DeviceEvent>& stream_end) {
  const std::lock_guard lock(mutex_);
  if (!poll_locked()) return nullptr;
  // Only now has NCCL put all its kernels into the stream.
  if (!stream_end) {
    stream_end.emplace(services_.device, device_);
    stream_end->record(stream());
  }
  return stream_end->is_done() ? lend_locked() : nullptr;
}

std::unique_ptr<NcclCommunicator::Loan> NcclCommunicator::borrow(const Deadline& deadline,
                                                                 const std::string& what) {
  std::unique_ptr<Loan> loan;
  wait_until_ready(deadline, what, [&](const NcclCallContext&) { loan = lend_locked(); });
  return loan;
}

std::unique_ptr<NcclCommunicator::Loan> NcclCommunicator::lend_locked() {
  auto loan = std::make_unique<Loan>(*this, handle_);
  is_lent_ = true;
  return loan;
}

void NcclCommunicator::end_loan() noexcept {
  const std::lock_guard lock(mutex_);
  is_lent_ = false;
  if (failure_) abort_locked();
}

void NcclCommunicator::allow_captures() noexcept {
  try {
    services_.device->allow_captures();
  } catch (const std::exception&) {  // a capture may fail then, and says so
  }
}

void NcclCommunicator::check_progress() noexcept {
  const std::lock_guard lock(mutex_);
  if (handle_ == nullptr || failure_) return;
  try {
    check_progress_locked();
  } catch (const OperationFailure&) {  // `failure_` holds it
  } catch (const std::exception& error) {
    fail_locked({OperationFailure::Kind::Backend, error.what(), ""});
  }
}

void NcclCommunicator::check_progress_locked() {
  const DeviceScope scope(*services_.device, device_);
  drop_done_locked();
  static_cast<void>(poll_locked());
  const OperationLimit* oldest = in_flight_.oldest_limit();
  if (oldest == nullptr) return;
  if (oldest->deadline.has_passed()) {
    fail_and_throw_locked(
        nccl_timeout(oldest->op + " was enqueued and does not end", oldest->deadline));
  }
  check_peers_locked(oldest->op);
}

void NcclCommunicator::check_peers_locked(const std::string& what) {
  const std::string lost = peer_watch_ ? peer_watch_() : "";
  if (lost.empty()) return;
  if (!grace_) grace_ = Deadline::after(services_.grace);
  if (!grace_->has_passed()) return;
  fail_and_throw_locked(
      {OperationFailure::Kind::PeerLost, lost, "its part does not come any more: " + what});
}

void NcclCommunicator::abort(OperationFailure reason) noexcept {
  const std::lock_guard lock(mutex_);
  fail_locked(std::move(reason));
}

bool NcclCommunicator::is_open() {
  const std::lock_guard lock(mutex_);
  return handle_ != nullptr;
}

bool NcclCommunicator::wait_until_ended(const Deadline& deadline) {
  while (is_open()) {  // a loan may delay the abort
    if (deadline.has_passed()) return false;
    std::this_thread::sleep_for(kCommunicatorPollInterval);
  }
  return abort_thread_.wait(deadline);
}

void NcclCommunicator::fail_locked(OperationFailure failure) noexcept {
  if (!failure_) failure_ = std::move(failure);
  if (!is_lent_) abort_locked();
}

void NcclCommunicator::abort_locked() noexcept {
  const auto handle = std::exchange(handle_, nullptr);
  if (handle != nullptr) abort_thread_.begin(services_, device_, handle, resources_);
}

void NcclCommunicator::fail_and_throw_locked(OperationFailure failure) {
  fail_locked(std::move(failure));
  throw OperationFailure(*failure_);
}

void NcclCommunicator::throw_failure_locked() const {
  if (failure_) throw OperationFailure(*failure_);
  if (handle_ == nullptr) {
    throw OperationFailure{OperationFailure::Kind::Backend, "the communicator is closed", ""};
  }
}

void NcclCommunicator::check(NcclResult result, const char* call) {
  const std::lock_guard lock(mutex_);
  check_locked(result, call);
}

void NcclCommunicator::check_locked(NcclResult result, const char* call) {
  if (result == NcclResult::Success || result == NcclResult::InProgress) return;
  fail_and_throw_locked(nccl_failure(result, call, services_.nccl->last_error(handle_)));
}

void NcclCommunicator::close(const Deadline& deadline) {
  wait_until_ready(deadline, "close", [](const NcclCallContext& c) {
    c.check(c.nccl.comm_finalize(c.communicator), "ncclCommFinalize");
  });
  native::NcclCommunicatorHandle handle = nullptr;
  wait_until_ready(deadline, "close",
                   [&](const NcclCallContext&) { handle = std::exchange(handle_, nullptr); });
  const DeviceScope scope(*services_.device, device_);
  const NcclResult result = services_.nccl->comm_destroy(handle);
  if (result != NcclResult::Success && result != NcclResult::InProgress) {
    throw nccl_failure(result, "ncclCommDestroy", "");
  }
}

}  // namespace lockstep
