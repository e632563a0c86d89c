// SPDX-License-Identifier: BSD-3-Clause
#include "inference/request.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "native/posix/owning_process.h"

namespace lockstep::inference {
namespace detail {

Request::Request(std::shared_ptr<RequestOwner> owner, std::size_t slot, std::uint64_t number)
    : owner_(std::move(owner)), slot_(slot), number_(number) {}

Request::~Request() {
  cancel();
  // What the ensemble has mapped is not there in a fork.
  if (!owner_->is_own_process()) native::leave_alone(std::move(owner_));
}

bool Request::wait_until(std::uint64_t end) {
  RequestChannel& channel = owner_->channel();
  const auto& words = channel.slot(slot_);
  while (true) {
    const auto seen = words.changes.load(std::memory_order_seq_cst);
    if (try_settle()) return true;
    const auto now = now_ns();
    if (now >= end) return false;
    const auto left = std::chrono::nanoseconds(
        std::min(end, std::max(now + 1, words.deadline.load(std::memory_order_relaxed))) - now);
    const auto is_same = [&] { return words.changes.load(std::memory_order_acquire) == seen; };
    if (!owner_->spin().spin_while_so(left, is_same)) {
      channel.wait_for_change(slot_, seen, left);
    }
  }
}

bool Request::try_settle() {
  if (is_settled_.load(std::memory_order_acquire)) return true;
  TORCH_CHECK(owner_->is_own_process(),
              "PendingAnswer: this process is a fork of the one that has the ensemble");
  const std::lock_guard lock(settling_);
  if (is_settled_.load(std::memory_order_relaxed)) return true;
  auto verdict = owner_->judge(slot_);
  if (!verdict) return false;
  try {
    outputs_ = owner_->outputs_of(slot_, number_, *verdict);
  } catch (...) {
    error_ = std::current_exception();
  }
  owner_->count_end(slot_, *verdict, outputs_.has_value());
  owner_->release(slot_);
  is_settled_.store(true, std::memory_order_release);
  // One that needed room may have settled it while another waits for it.
  owner_->channel().announce(slot_);
  return true;
}

// Not under the mutex: the program's combination may submit, and submitting settles what is over.
Answer Request::answer() {
  if (outputs_ && !outputs_->to_combine.empty()) {
    try {
      owner_->combine(*outputs_);
    } catch (...) {
      error_ = std::current_exception();
    }
    outputs_->to_combine.clear();
  }
  if (error_) std::rethrow_exception(error_);
  TORCH_CHECK(outputs_.has_value(), "PendingAnswer: request ", number_, " was taken back");
  return outputs_->answer;
}

void Request::cancel() noexcept {
  if (!owner_->is_own_process()) return;
  const std::lock_guard lock(settling_);
  if (is_settled_.load(std::memory_order_relaxed)) return;
  is_settled_.store(true, std::memory_order_release);
  owner_->count_cancelled();
  owner_->release(slot_);
}

}  // namespace detail

PendingAnswer::PendingAnswer(std::shared_ptr<detail::Request> request)
    : request_(std::move(request)) {}

PendingAnswer::~PendingAnswer() {
  cancel();
}

PendingAnswer::PendingAnswer(PendingAnswer&& other) noexcept = default;

PendingAnswer& PendingAnswer::operator=(PendingAnswer&& other) noexcept {
  if (this != &other) {
    cancel();
    request_ = std::move(other.request_);
  }
  return *this;
}

detail::Request& PendingAnswer::request() const {
  TORCH_CHECK(request_ != nullptr, "PendingAnswer: it was moved from and has no request");
  return *request_;
}

Answer PendingAnswer::get() {
  // The request's own deadline ends this.
  while (!request().wait_until(std::numeric_limits<std::uint64_t>::max())) {
  }
  return request().answer();
}

bool PendingAnswer::wait_for(std::chrono::nanoseconds limit) {
  const auto nanoseconds = static_cast<std::uint64_t>(std::max<std::int64_t>(0, limit.count()));
  return request().wait_until(detail::now_ns() + nanoseconds);
}

bool PendingAnswer::ready() {
  return request().try_settle();
}

void PendingAnswer::cancel() noexcept {
  if (request_ != nullptr) request_->cancel();
}

std::uint64_t PendingAnswer::number() const {
  return request().number();
}

}  // namespace lockstep::inference
