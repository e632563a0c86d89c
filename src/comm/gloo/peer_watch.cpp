// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/peer_watch.h"

#include <exception>
#include <system_error>
#include <utility>

namespace lockstep {
namespace {

constexpr std::chrono::milliseconds kQuestionInterval{250};
constexpr std::chrono::seconds kAnswerLimit{2};

bool has_come(const std::future<std::string>& answer, std::chrono::seconds limit) {
  return answer.wait_for(limit) == std::future_status::ready;
}

}  // namespace

GlooPeerWatch::~GlooPeerWatch() {
  if (!owner_.is_current()) {  // a fork has neither this thread nor those of the store
    [[maybe_unused]] auto* kept_thread = thread_.release();
    [[maybe_unused]] auto* kept_store = store_.release();
    return;
  }
  if (!answer_.valid()) return;
  if (has_come(answer_, kAnswerLimit)) {
    thread_->join();
  } else {
    [[maybe_unused]] auto* kept = thread_.release();  // waits as long as the store is silent
  }
}

std::string GlooPeerWatch::poll() {
  if (!owner_.is_current()) return "";
  const std::lock_guard lock(mutex_);
  if (answer_.valid() && has_come(answer_, std::chrono::seconds(0))) take_answer();
  const auto now = std::chrono::steady_clock::now();
  const bool is_due = now - last_question_ >= kQuestionInterval;
  if (abort_reason_.empty() && !answer_.valid() && !is_store_gone_ && is_due) {
    last_question_ = now;
    ask();
  }
  return abort_reason_;
}

void GlooPeerWatch::ask() {
  std::packaged_task<std::string()> question(
      [store = store_, rank = own_rank_] { return read_abort_reason(*store, rank); });
  answer_ = question.get_future();
  try {
    thread_ = std::make_unique<std::thread>(std::move(question));
  } catch (const std::system_error&) {  // no thread can be made: a later poll tries again
    answer_ = {};
  }
}

void GlooPeerWatch::take_answer() {
  thread_->join();
  try {
    abort_reason_ = answer_.get();
  } catch (const std::exception&) {
    is_store_gone_ =
        true;  // the rank that served it may have closed its group, as this rank is about to
  }
}

}  // namespace lockstep
