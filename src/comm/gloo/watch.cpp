// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/watch.h"

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

GlooWatch::~GlooWatch() {
  if (!owner_.is_current()) {  // neither its thread nor those of the store are there in a fork
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

std::string GlooWatch::look() {
  if (!owner_.is_current()) return "";
  const std::lock_guard lock(mutex_);
  if (answer_.valid() && has_come(answer_, std::chrono::seconds(0))) take_answer();
  const auto now = std::chrono::steady_clock::now();
  const bool is_due = now - last_question_ >= kQuestionInterval;
  if (word_.empty() && !answer_.valid() && !is_store_gone_ && is_due) {
    last_question_ = now;
    ask();
  }
  return word_;
}

void GlooWatch::ask() {
  std::packaged_task<std::string()> question(
      [store = store_] { return read_word_of_leaving(*store); });
  answer_ = question.get_future();
  try {
    thread_ = std::make_unique<std::thread>(std::move(question));
  } catch (const std::system_error&) {  // no thread to be had: not now
    answer_ = {};
  }
}

void GlooWatch::take_answer() {
  thread_->join();
  try {
    word_ = answer_.get();
  } catch (const std::exception&) {
    is_store_gone_ = true;  // its holder may have closed its group, as this rank is about to
  }
}

}  // namespace lockstep
