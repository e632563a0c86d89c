// SPDX-License-Identifier: BSD-3-Clause
#include "comm/operation_queue.h"

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
TEST(OperationQueue, MessagesOfOneLaneStartInTheOrderOfTheirCalls) {
  const bool at_once = true;
  bool later = false;
  std::vector<int> started;
  OperationQueue queue({}, [](const std::string&) {});
  const auto push = [&](int number, const bool& may_start, std::uint64_t lane) {
    return queue.push_message(std::make_unique<FakeMessage>(number, may_start, started), "send",
                              std::chrono::seconds(5), lane);
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

}  // namespace
}  // namespace lockstep
