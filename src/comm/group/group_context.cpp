// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/group_context.h"

#include <unistd.h>

#include <utility>

#include "comm/collective/operation.h"
#include "comm/collective/progress_queue.h"

namespace lockstep {

GroupContext::GroupContext(Backend kind, LaunchEnvironment environment, Timeout timeout,
                           std::function<void(const std::string&)> on_failure)
    : kind_(kind),
      environment_(std::move(environment)),
      timeout_(timeout),
      calling_thread_(std::make_unique<CallingThread>()) {
  CommContext context;
  context.backend = to_string(kind_);
  context.rank = rank();
  context.world_size = size();
  queue_ = std::make_unique<ProgressQueue>(std::move(context), std::move(on_failure));
}

GroupContext::~GroupContext() {
  if (queue_ && is_copy_of_fork()) keep_unfinished();
}

CommContext GroupContext::context_for(const char* op) const {
  CommContext context;
  context.backend = to_string(kind_);
  context.op = op;
  context.rank = rank();
  context.world_size = size();
  context.sequence = queue_->pushed();
  return context;
}

void GroupContext::run(std::unique_ptr<Operation> operation, const char* op,
                       std::optional<Timeout> limit) {
  wait_for(queue_->push(std::move(operation), op, call_timeout()), limit);
}

void GroupContext::progress() noexcept {
  queue_->progress();
}

bool GroupContext::has_unfinished() const noexcept {
  return queue_->has_pending();
}

void GroupContext::keep_unfinished() noexcept {
  [[maybe_unused]] auto* kept = queue_.release();
}

void GroupContext::check_open(const char* op) const {
  check_process(op);
  check_not_closed(op);
}

void GroupContext::check_not_closed(const char* op) const {
  throw_failure();
  TORCH_CHECK(!is_closed_, op, ": this process group is closed");
}

void GroupContext::check_process(const char* op) const {
  TORCH_CHECK(!is_copy_of_fork(), op, ": process ", ::getpid(),
              " is a fork of the rank that made this process group, and cannot use its copy; it "
              "makes a group of its own, or leaves the work to its parent");
}

void GroupContext::throw_failure() const {
  if (queue_->failure()) std::rethrow_exception(queue_->failure());
}

void GroupContext::fail(const OperationFailure& failure, const char* op) {
  queue_->fail(failure, op);
}

void GroupContext::give_up(const std::string& reason, const char* op) noexcept {
  try {
    fail({OperationFailure::Kind::Backend, reason, ""}, op);
  } catch (...) {  // it always throws the failure, which this rank knows
  }
}

bool GroupContext::is_failure_shared() const noexcept {
  return queue_->is_failure_shared();
}

bool GroupContext::is_copy_of_fork() const noexcept {
  return !queue_->is_in_its_process();
}

GroupVisit GroupContext::enter(const char* op) const {
  check_process(op);  // a fork may have been made while another thread was in the group
  GroupVisit visit(*calling_thread_, op);
  TORCH_CHECK(visit.has_entered(), op, ": ", calling_thread_->misuse());
  note_misuse();
  return visit;
}

void GroupContext::note_misuse() const noexcept {
  if (!calling_thread_->is_misused() || queue_->failure()) return;
  try {
    TORCH_CHECK(false, calling_thread_->misuse());
  } catch (...) {
    queue_->fail(std::current_exception());
  }
}

void GroupContext::wait_for(std::uint64_t sequence, std::optional<Timeout> limit) {
  const auto visit = enter("wait");
  queue_->wait(sequence, limit);
  // The other thread's call may have come at another point of the order on each rank.
  note_misuse();
  if (calling_thread_->is_misused()) throw_failure();
}

}  // namespace lockstep
