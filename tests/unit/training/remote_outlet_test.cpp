// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/remote_outlet.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>

#include "support/failing_file_system.h"
#include "support/raw_safetensors.h"
#include "training/background/log_file.h"
#include "training/background/log_text.h"

namespace lockstep::training {
namespace {

using logging::Level;
using State = LogTransport::State;
using Clock = std::chrono::steady_clock;

/// Answers each batch as it was told; then it takes all.
class ToldTransport final : public LogTransport {
 public:
  struct Answer {
    State state = State::Sent;
    std::size_t sent = 0;
    std::chrono::seconds pause{0};
  };
  std::deque<Answer> answers;
  std::vector<std::vector<std::string>> batches;  ///< the texts

  void begin(const std::vector<LogRecord>& records) override {
    batches.emplace_back();
    for (const auto& record : records) batches.back().push_back(record.text);
    now_ = answers.empty() ? Answer() : answers.front();
    if (!answers.empty()) answers.pop_front();
  }
  [[nodiscard]] State poll(Outlet::TimePoint /*now*/) override { return now_.state; }
  void cancel() override {}
  [[nodiscard]] std::string failure() const override { return "the test says so"; }
  [[nodiscard]] std::size_t sent_records() const override { return now_.sent; }
  [[nodiscard]] std::chrono::seconds pause() const override { return now_.pause; }
  [[nodiscard]] std::size_t batch_lines() const override { return 4; }

 private:
  Answer now_;
};

class RemoteOutletTest : public ::testing::Test {
 protected:
  RemoteOutletTest() {
    auto transport = std::make_unique<ToldTransport>();
    transport_ = transport.get();
    outlet_ = std::make_unique<RemoteOutlet>("server", std::move(transport), SpoolOptions(),
                                             counters_, native::FileSystem::of_machine());
  }
  void accept(const std::string& text) {
    ASSERT_TRUE(outlet_->accept({nullptr, 0, Level::Info, text}));
  }

  const Outlet::TimePoint start_ = Clock::now();
  const std::shared_ptr<WriterCounters> counters_ = std::make_shared<WriterCounters>();
  ToldTransport* transport_ = nullptr;
  std::unique_ptr<RemoteOutlet> outlet_;
};

using Batches = std::vector<std::vector<std::string>>;

TEST_F(RemoteOutletTest, WhatWasSentBeforeAFailureIsNotSentAgain) {
  transport_->answers = {{State::Failed, 2}};
  for (const char* text : {"a", "b", "c"}) accept(text);
  static_cast<void>(outlet_->service(start_));
  EXPECT_EQ(counters_->lines_written, 2U);
  outlet_->try_now(false);
  static_cast<void>(outlet_->service(start_));
  EXPECT_EQ(transport_->batches, (Batches{{"a", "b", "c"}, {"c"}}));
  EXPECT_EQ(counters_->lines_written, 3U);
  EXPECT_TRUE(outlet_->is_done());
}

TEST_F(RemoteOutletTest, ABatchThatIsTooLargeIsHalved) {
  transport_->answers = {{State::TooLarge}, {State::TooLarge}};
  for (const char* text : {"a", "b", "c", "d", "e"}) accept(text);
  static_cast<void>(outlet_->service(start_));
  EXPECT_EQ(transport_->batches,
            (Batches{{"a", "b", "c", "d"}, {"a", "b"}, {"a"}, {"b", "c"}, {"d", "e"}}));
  EXPECT_EQ(counters_->lines_written, 5U);
  EXPECT_EQ(counters_->lines_lost, 0U);
}

TEST_F(RemoteOutletTest, ALineThatIsTooLargeAloneIsLost) {
  transport_->answers = {{State::TooLarge}};
  ::testing::internal::CaptureStderr();
  accept("a");
  static_cast<void>(outlet_->service(start_));
  ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(counters_->lines_lost, 1U);
}

TEST_F(RemoteOutletTest, APauseThatTheServerAsksForIsKeptButAtTheEnd) {
  using std::chrono::hours;
  using std::chrono::seconds;
  transport_->answers = {{State::Failed, 0, seconds(1000)}, {State::Failed, 0, seconds::max()}};
  accept("a");
  EXPECT_EQ(outlet_->service(start_), start_ + seconds(1000));
  outlet_->try_now(false);
  EXPECT_EQ(outlet_->service(start_ + seconds(999)), start_ + seconds(1000));
  EXPECT_EQ(transport_->batches.size(), 1U);
  // Nobody means more than an hour.
  EXPECT_EQ(outlet_->service(start_ + seconds(1000)), start_ + seconds(1000) + hours(1));
  EXPECT_EQ(transport_->batches.size(), 2U);
  outlet_->try_now(true);
  static_cast<void>(outlet_->service(start_ + seconds(1001)));
  EXPECT_EQ(transport_->batches.size(), 3U);
  EXPECT_TRUE(outlet_->is_done());
}

TEST_F(RemoteOutletTest, ANumberOfLostLinesThatIsRefusedIsSaidAgain) {
  transport_->answers = {{State::Refused}, {State::Refused}, {State::Refused}};
  ::testing::internal::CaptureStderr();
  accept("a");
  auto now = outlet_->service(start_);
  now = outlet_->service(now);  // its number
  EXPECT_EQ(transport_->batches.size(), 2U);
  EXPECT_TRUE(outlet_->is_done());  // until there is another line
  EXPECT_EQ(outlet_->service(now + std::chrono::hours(1)), Outlet::TimePoint::max());
  accept("b");
  now = outlet_->service(now + std::chrono::hours(1));  // the number and the line
  EXPECT_EQ(transport_->batches.size(), 3U);
  static_cast<void>(outlet_->service(now));
  ::testing::internal::GetCapturedStderr();
  ASSERT_EQ(transport_->batches.size(), 4U);
  EXPECT_EQ(transport_->batches[3].front().find("2 lines were lost here"), 0U);
  EXPECT_EQ(outlet_->give_up(), "");
}

TEST_F(RemoteOutletTest, ANumberThatWasNotSentIsSaidAtTheEnd) {
  transport_->answers = {{State::Failed}};
  outlet_->note_lost(5, "the queue was full");
  accept("a");
  static_cast<void>(outlet_->service(start_));
  EXPECT_EQ(outlet_->give_up(), "server: 6 lines were lost here: the test says so");
  EXPECT_EQ(counters_->lines_lost, 1U);  // the others were counted before
}

TEST(LogFileAlone, ANumberThatWasNotWrittenIsSaidAtTheEnd) {
  const TemporaryFolder folder;
  LogFileSettings settings;
  settings.kept_bytes = 1000;
  settings.format = [](std::string& text, const QueuedLine& line) { text += line.text; };
  settings.format_of_note = settings.format;
  LogFile file(folder / "none" / "log", settings, std::make_shared<WriterCounters>(),
               native::FileSystem::of_machine());
  file.note_lost(5, "the queue was full");
  ASSERT_TRUE(file.accept({nullptr, 0, Level::Info, "a"}));
  static_cast<void>(file.service(Clock::now()));
  EXPECT_NE(file.give_up().find("6 lines were lost here: "), std::string::npos);
}

}  // namespace
}  // namespace lockstep::training
