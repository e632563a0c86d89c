// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/communicator.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace lockstep {
namespace {

using native::DeviceScope;
using native::NcclResult;

// Meeting takes NCCL a large part of a second.
constexpr std::chrono::microseconds kCommunicatorPollInterval{200};

OperationFailure failure_of(NcclResult result, const std::string& call, const std::string& detail) {
  std::string reason = call + ": " + native::to_string(result);
  if (!detail.empty()) reason += " (" + detail + ")";
  const bool is_remote = result == NcclResult::RemoteError;
  return {is_remote ? OperationFailure::Kind::PeerLost : OperationFailure::Kind::Backend, reason,
          is_remote ? "look at what the other ranks reported first"
                    : "NCCL_DEBUG=WARN in the environment makes NCCL say more"};
}

OperationFailure timeout_of(const std::string& what, const Deadline& deadline) {
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.1f s", deadline.elapsed().count());
  return {OperationFailure::Kind::Timeout, "timed out after " + std::string(seconds) + ": " + what,
          "a rank is slow, stopped, or took another path through the program; with "
          "ProcessGroupOptions().check_calls(true) ranks say which one"};
}

}  // namespace

void NcclCallContext::check(NcclResult result, const char* call) const {
  if (result == NcclResult::Success || result == NcclResult::InProgress) return;
  throw failure_of(result, call, nccl.last_error(communicator));
}

NcclCommunicator::NcclCommunicator(NcclServices services, int device, int rank, int world_size)
    : services_(std::move(services)),
      device_(device),
      capability_(services_.device->compute_capability(device)),
      rank_(rank),
      world_size_(world_size),
      places_(std::make_shared<NcclPlaces>(services_, device)) {}

NcclCommunicator::~NcclCommunicator() {
  give_up({OperationFailure::Kind::Backend, "the communicator was left without close()", ""});
}

void NcclCommunicator::start(const native::NcclUniqueId& id) {
  const std::lock_guard lock(mutex_);
  try {
    const DeviceScope scope(*services_.device, device_);
    const NcclResult result =
        services_.nccl->comm_init(&places_->communicator, world_size_, id, rank_);
    handle_ = places_->communicator;
    check_locked(result, "ncclCommInitRankConfig");
  } catch (const OperationFailure&) {  // kept for `poll`
  } catch (const std::exception& error) {
    fail_locked({OperationFailure::Kind::Backend, error.what(), ""});
  }
}

native::NcclCommunicatorHandle NcclCommunicator::divide(int color, int key,
                                                        const Deadline& deadline) {
  wait_until_ready(deadline, "NCCL does not get ready", [&] {
    places_->part = nullptr;
    check_locked(services_.nccl->comm_split(handle_, color, key, &places_->part), "ncclCommSplit");
  });
  wait_until_ready(deadline, "not all ranks have come to the division");
  const std::lock_guard lock(mutex_);
  throw_failure_locked();
  return std::exchange(places_->part, nullptr);
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
                                        const std::function<void()>& next) {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (poll_locked()) {
        const DeviceScope scope(*services_.device, device_);
        return next ? next() : void();
      }
      if (deadline.has_passed()) fail_and_throw_locked(timeout_of(what, deadline));
      check_peers_locked(what);
    }
    std::this_thread::sleep_for(kCommunicatorPollInterval);
  }
}

NcclCallContext NcclCommunicator::context_locked() const {
  return {*services_.nccl, *services_.device, handle_, stream(), rank_, world_size_};
}

bool NcclCommunicator::try_enqueue(const std::vector<NcclCall>& preparations,
                                   const std::vector<NcclCall>& calls, const Deadline& deadline,
                                   const std::string& op) {
  const std::lock_guard lock(mutex_);
  if (!poll_locked()) return false;
  given_.emplace(Given{deadline, op});
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

std::shared_ptr<NcclFlight> NcclCommunicator::record_end(const Deadline& deadline, std::string op) {
  const std::lock_guard lock(mutex_);
  throw_failure_locked();
  const DeviceScope scope(*services_.device, device_);
  auto flight = std::make_shared<NcclFlight>(services_, device_, deadline, std::move(op));
  flight->end.record(stream());
  given_.reset();
  flights_.push_back(flight);
  return flight;
}

bool NcclCommunicator::is_done(NcclFlight& flight) {
  const std::lock_guard lock(mutex_);
  if (flight.is_done) return true;
  throw_failure_locked();
  drop_done_locked();
  if (flight.is_done) return true;
  static_cast<void>(poll_locked());  // an error of NCCL's own does not end the event
  return false;
}

void NcclCommunicator::drop_done_locked() {
  while (!flights_.empty()) {
    try {
      flights_.front()->is_done = flights_.front()->end.is_done();
    } catch (const std::exception& error) {
      fail_and_throw_locked({OperationFailure::Kind::Backend, error.what(), ""});
    }
    if (!flights_.front()->is_done) return;
    flights_.pop_front();
  }
}

void* NcclCommunicator::allocate(std::size_t bytes) {
  const DeviceScope scope(*services_.device, device_);
  void* data = nullptr;
  const NcclResult result = services_.nccl->memory_allocate(&data, std::max<std::size_t>(1, bytes));
  return result == NcclResult::Success ? data : nullptr;
}

native::NcclWindow NcclCommunicator::make_known(void* data, std::size_t bytes,
                                                const Deadline& deadline) {
  wait_until_ready(deadline, "NCCL does not get ready", [&] {
    places_->window = nullptr;
    check_locked(services_.nccl->window_register(handle_, data, std::max<std::size_t>(1, bytes),
                                                 &places_->window),
                 "ncclCommWindowRegister");
  });
  native::NcclWindow window = nullptr;
  wait_until_ready(deadline, "the registration of memory", [&] {
    window = places_->window;
    if (window != nullptr) windows_.insert(window);
  });
  return window;
}

void NcclCommunicator::free(void* data, native::NcclWindow window) noexcept {
  try {
    const DeviceScope scope(*services_.device, device_);
    // Unlike LibTorch's allocator, NCCL's takes memory away at once.
    native::DeviceEvent last_use(services_.device, device_);
    last_use.record(services_.device->current_stream(device_));
    const Deadline deadline = Deadline::after(services_.end_limit);
    while (!last_use.is_done()) {
      if (deadline.has_passed()) return;  // still in use: better lost than wrong
      std::this_thread::sleep_for(kCommunicatorPollInterval);
    }
    if (deregister(window, deadline)) services_.nccl->memory_free(data);
  } catch (...) {  // the device is beyond help; its memory goes with the process
  }
}

bool NcclCommunicator::is_idle_locked(std::optional<native::DeviceEvent>& end) {
  if (!poll_locked()) return false;
  if (!end) {
    end.emplace(services_.device, device_);
    end->record(stream());
  }
  return end->is_done();
}

bool NcclCommunicator::deregister(native::NcclWindow window, const Deadline& deadline) {
  std::optional<native::DeviceEvent> end;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (handle_ == nullptr) break;
      // A window that is not there may be what the handle is lent for.
      if (!windows_.contains(window) && !is_lent_) return true;
      try {
        if (is_idle_locked(end)) {
          windows_.erase(window);
          is_lent_ = true;
          lock.unlock();
          return deregister_lent(window) == NcclResult::Success;
        }
      } catch (const OperationFailure&) {  // the communicator ends, and its windows with it
      }
    }
    if (deadline.has_passed()) return false;  // better lost than wrong
    std::this_thread::sleep_for(kCommunicatorPollInterval);
  }
  return ending_.wait(deadline);
}

NcclResult NcclCommunicator::deregister_lent(native::NcclWindow window) {
  const NcclResult result = services_.nccl->window_deregister(handle_, window);
  const std::lock_guard lock(mutex_);
  is_lent_ = false;
  if (failure_) abort_locked();
  return result;
}

void NcclCommunicator::deregister_all(const Deadline& deadline) {
  while (true) {
    native::NcclWindow window = nullptr;
    wait_until_ready(deadline, "close", [&] {
      if (windows_.empty()) return;
      window = *windows_.begin();
      windows_.erase(windows_.begin());
      is_lent_ = true;
    });
    if (window == nullptr) return;
    const DeviceScope scope(*services_.device, device_);
    const NcclResult result = deregister_lent(window);
    const std::lock_guard lock(mutex_);
    check_locked(result, "ncclCommWindowDeregister");
  }
}

void NcclCommunicator::look() noexcept {
  const std::lock_guard lock(mutex_);
  if (handle_ == nullptr || failure_) return;
  try {
    look_locked();
  } catch (const OperationFailure&) {  // `failure_` holds it
  } catch (const std::exception& error) {
    fail_locked({OperationFailure::Kind::Backend, error.what(), ""});
  }
}

void NcclCommunicator::look_locked() {
  const DeviceScope scope(*services_.device, device_);
  drop_done_locked();
  static_cast<void>(poll_locked());
  if (!flights_.empty()) return check_end_locked(flights_.front()->deadline, flights_.front()->op);
  if (given_) check_end_locked(given_->deadline, given_->op);
}

void NcclCommunicator::check_end_locked(const Deadline& deadline, const std::string& op) {
  if (deadline.has_passed()) {
    fail_and_throw_locked(timeout_of(op + " was enqueued and does not end", deadline));
  }
  check_peers_locked(op);
}

void NcclCommunicator::check_peers_locked(const std::string& what) {
  const std::string lost = peer_watch_ ? peer_watch_() : "";
  if (lost.empty()) return;
  if (!grace_) grace_ = Deadline::after(services_.grace);
  if (!grace_->has_passed()) return;
  fail_and_throw_locked(
      {OperationFailure::Kind::PeerLost, lost, "its part does not come any more: " + what});
}

void NcclCommunicator::give_up(OperationFailure failure) noexcept {
  const std::lock_guard lock(mutex_);
  fail_locked(std::move(failure));
}

bool NcclCommunicator::wait_until_ended() {
  const Deadline deadline = Deadline::after(services_.end_limit);
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (handle_ == nullptr) break;  // not lent any more either
    }
    if (deadline.has_passed()) return false;
    std::this_thread::sleep_for(kCommunicatorPollInterval);
  }
  return ending_.wait(deadline);
}

void NcclCommunicator::fail_locked(OperationFailure failure) noexcept {
  if (!failure_) failure_ = std::move(failure);
  if (!is_lent_) abort_locked();
}

void NcclCommunicator::abort_locked() noexcept {
  const auto handle = std::exchange(handle_, nullptr);
  if (handle == nullptr) return;
  windows_.clear();  // they go with the communicator
  ending_.begin(services_, device_, handle, places_);
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

void NcclCommunicator::check_locked(NcclResult result, const char* call) {
  if (result == NcclResult::Success || result == NcclResult::InProgress) return;
  fail_and_throw_locked(failure_of(result, call, services_.nccl->last_error(handle_)));
}

void NcclCommunicator::close(const Deadline& deadline) {
  deregister_all(deadline);
  wait_until_ready(deadline, "close", [this] {
    check_locked(services_.nccl->comm_finalize(handle_), "ncclCommFinalize");
  });
  native::NcclCommunicatorHandle handle = nullptr;
  wait_until_ready(deadline, "close", [&] { handle = std::exchange(handle_, nullptr); });
  const DeviceScope scope(*services_.device, device_);
  const NcclResult result = services_.nccl->comm_destroy(handle);
  if (result != NcclResult::Success && result != NcclResult::InProgress) {
    throw failure_of(result, "ncclCommDestroy", "");
  }
}

}  // namespace lockstep
