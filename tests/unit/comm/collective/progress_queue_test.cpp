// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/progress_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockstep {
namespace {

/// A message that can start when it is told, and notes its number when it does.
class FakeMessage final : public Operation {
 public:
  FakeMessage(int number, const bool& may_start, std::vector<int>& started)
      : number_(number), may_start_(may_start), started_(started) {}
  bool try_start(bool) override {
    if (may_start_) started_.push_back(number_);
    return may_start_;
  }
  bool try_finish() override { return true; }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override {}
  [[nodiscard]] std::string describe_missing() const override { return ""; }

 private:
  int number_;
  const bool& may_start_;
  std::vector<int>& started_;
};

// As a tensor that is still being copied from a device holds up those after it.
TEST(ProgressQueue, MessagesOfOneLaneStartInTheOrderOfTheirCalls) {
  const bool at_once = true;
  bool later = false;
  std::vector<int> started;
  ProgressQueue queue({}, [](const std::string&) {});
  const auto push = [&](int number, const bool& may_start, std::uint64_t lane) {
    return queue.push_message(std::make_unique<FakeMessage>(number, may_start, started), "send",
                              std::chrono::minutes(1), lane);
  };
  push(1, later, 7);
  const auto second = push(2, at_once, 7);
  push(3, at_once, 8);
  EXPECT_EQ(started, std::vector<int>{3});
  EXPECT_FALSE(queue.is_done(second));
  later = true;
  queue.wait(second, std::nullopt);
  EXPECT_EQ(started, (std::vector<int>{3, 1, 2}));
}

/// A line that several operations push forward: whoever looks finds the failure of one of them.
class FakeInLine final : public Operation {
 public:
  explicit FakeInLine(const Operation*& culprit) : culprit_(culprit) {}
  bool try_start(bool) override {
    if (culprit_ == nullptr) return false;
    throw OperationFailure{OperationFailure::Kind::Mismatch, "does not fit", "", culprit_};
  }
  bool try_finish() override { return false; }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override {}
  [[nodiscard]] std::string describe_missing() const override { return ""; }

 private:
  const Operation*& culprit_;
};

std::string text_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
}

TEST(ProgressQueue, BlamesTheOperationWhoseFailureItIs) {
  for (const bool is_of_message : {true, false}) {
    const Operation* culprit = nullptr;
    std::string told;
    ProgressQueue queue({}, [&](const std::string& reason) { told = reason; });
    auto collective = std::make_unique<FakeInLine>(culprit);
    auto message = std::make_unique<FakeInLine>(culprit);
    const Operation* const guilty =
        is_of_message ? static_cast<Operation*>(message.get()) : collective.get();
    queue.push(std::move(collective), "all_reduce", std::chrono::minutes(1));
    if (!is_of_message) {  // then the message is what is pushed forward
      queue.push_message(std::move(message), "recv", std::chrono::minutes(1), 1);
      culprit = guilty;
      queue.progress();
    } else {
      // One that has started is not pushed forward any more: the collective is.
      bool may_start = true;
      std::vector<int> started;
      queue.push_message(std::make_unique<FakeMessage>(1, may_start, started), "send",
                         std::chrono::minutes(1), 1);
      may_start = false;
      queue.push_message(std::make_unique<FakeMessage>(2, may_start, started), "send",
                         std::chrono::minutes(1), 1);
      queue.push_message(std::move(message), "recv", std::chrono::minutes(1), 1);
      culprit = guilty;  // held up in its lane
      queue.progress();
    }
    ASSERT_NE(queue.failure(), nullptr);
    EXPECT_THROW(std::rethrow_exception(queue.failure()), MismatchError);
    const std::string text = text_of(queue.failure());
    EXPECT_EQ(text.find(is_of_message ? "recv #3" : "all_reduce #1"), 0U) << text;
    // A message's mismatch is known to its two ranks only; of a collective's all know.
    EXPECT_EQ(queue.is_failure_shared(), !is_of_message);
    EXPECT_EQ(told, is_of_message ? text : "");
  }
}

/// A collective that never finishes. Whoever asks it which ranks are late gets an exception.
class FakeLateCollective final : public Operation {
 public:
  bool try_start(bool) override { return true; }
  bool try_finish() override { return false; }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override {}
  [[nodiscard]] std::string describe_missing() const override {
    throw OperationFailure{OperationFailure::Kind::PeerLost, "rank 1 gave up: out of memory", ""};
  }
};

TEST(ProgressQueue, ATimeOutSaysWhatTheLookForLateRanksFound) {
  ProgressQueue queue({}, [](const std::string&) {});
  const auto late =
      queue.push(std::make_unique<FakeLateCollective>(), "broadcast", std::chrono::minutes(1));
  EXPECT_THROW(queue.wait(late, std::chrono::milliseconds(1)), TimeoutError);
  const std::string text = text_of(queue.failure());
  EXPECT_NE(text.find("timed out after"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 1 gave up: out of memory"), std::string::npos) << text;
}

TEST(ProgressQueue, AFailureFoundOutsideWaitsForNothingThatIsUnderWay) {
  const Operation* culprit = nullptr;
  std::string told;
  ProgressQueue queue({}, [&](const std::string& reason) { told = reason; });
  queue.push(std::make_unique<FakeInLine>(culprit), "all_reduce", std::chrono::hours(1));
  EXPECT_THROW(queue.fail({OperationFailure::Kind::Timeout, "too late", ""}, "split"),
               TimeoutError);
  EXPECT_EQ(text_of(queue.failure()).find("split #2"), 0U) << text_of(queue.failure());
  EXPECT_NE(told.find("too late"), std::string::npos);
}

}  // namespace
}  // namespace lockstep
