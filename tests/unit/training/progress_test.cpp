// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/progress.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <sstream>
#include <string>

#include "support/expected_errors.h"

namespace lockstep::training {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::expect_refusal;

/// A clock that stands still until it is told.
class ProgressTest : public ::testing::Test {
 protected:
  std::chrono::steady_clock::time_point now;
  std::ostringstream stream;

  ProgressOptions options(ProgressStyle style) {
    return ProgressOptions().style(style).epochs(2).steps_per_epoch(4).columns(80).clock(
        [this] { return now; });
  }
  std::string taken() {
    const auto text = stream.str();
    stream.str("");
    return text;
  }
};

TEST_F(ProgressTest, WritesPlainLinesNowAndThen) {
  Progress progress(stream, options(ProgressStyle::Lines));
  progress.begin_epoch(0);
  int asked = 0;
  const auto values = [&] {
    ++asked;
    return ProgressValues{{"loss", 1.23456}, {"lr", 1e-5}};
  };
  now += seconds(6);
  progress.step(32, values);
  EXPECT_EQ(taken(), "");
  EXPECT_EQ(asked, 0);
  now += seconds(6);
  progress.step(32, values);
  // 64 samples in 12 s; 6 of 8 steps are left, 6 s each.
  EXPECT_EQ(taken(), "epoch 1/2  50%: loss 1.235, lr 1e-05; 5 samples/s, 0:36 left\n");
  now += seconds(12);
  progress.step(32);
  EXPECT_EQ(taken(), "epoch 1/2  75%: 4 samples/s, 0:40 left\n");
}

TEST_F(ProgressTest, CountsTestsAsTimeButNotAsTraining) {
  Progress progress(stream, options(ProgressStyle::Lines));
  for (int epoch = 0; epoch < 2; ++epoch) {
    progress.begin_epoch(epoch);
    for (int step = 0; step < 4; ++step) {
      now += seconds(1);
      progress.step(10);
    }
    now += seconds(4);  // a test
    progress.end_epoch({{"loss", 0.5}, {"test accuracy", 0.91234}});
  }
  EXPECT_EQ(taken(),
            "epoch 1/2: loss 0.5, test accuracy 0.9123; 10 samples/s, 0:08 left\n"
            "epoch 2/2: loss 0.5, test accuracy 0.9123; 10 samples/s, 0:00 left\n");
  EXPECT_EQ(progress.training_time(), seconds(8));
  EXPECT_EQ(progress.samples_per_second(), 10);
}

TEST_F(ProgressTest, DrawsABarAndClearsIt) {
  {
    Progress progress(stream, options(ProgressStyle::Bar));
    progress.begin_epoch(0);
    now += seconds(1);
    progress.step(100, [] { return ProgressValues{{"loss", 2}}; });
    const std::string first = "epoch 1/2 [==>     ]  25%: loss 2; 100 samples/s, 0:07 left";
    EXPECT_EQ(taken(), "\r" + first);
    now += milliseconds(100);
    progress.step(100);  // too soon
    EXPECT_EQ(taken(), "");
    now += milliseconds(900);
    progress.step(100);
    const std::string second = "epoch 1/2 [======> ]  75%: 150 samples/s, 0:03 left";
    EXPECT_EQ(taken(), "\r" + second + std::string(first.size() - second.size(), ' '));
    progress.end_epoch();
    EXPECT_EQ(taken(),
              "\r" + std::string(second.size(), ' ') + "\repoch 1/2: 150 samples/s, 0:03 left\n");
    progress.begin_epoch(1);
    now += seconds(1);
    progress.step(100);
    taken();
  }
  EXPECT_EQ(taken(), "\n");  // what follows has a line of its own
}

TEST_F(ProgressTest, CutsTheBarWhereTheTerminalEnds) {
  Progress progress(stream, options(ProgressStyle::Bar).columns(40).epochs(1));
  progress.begin_epoch(0);
  now += seconds(1);
  progress.step(1, [] { return ProgressValues{{"größe", 1}, {"more", 2}}; });
  EXPECT_EQ(taken(), "\repoch 1/1 [==>     ]  25%: größe 1, mor");  // 39 characters
  now += seconds(1);
  progress.step(1, [] { return ProgressValues{{"a", 1}}; });
  EXPECT_EQ(taken(), "\repoch 1/1 [====>   ]  50%: a 1; 1 sampl");
}

TEST_F(ProgressTest, SaysNothingOnOtherRanks) {
  {
    Progress progress(stream, options(ProgressStyle::Silent));
    progress.begin_epoch(0);
    now += seconds(100);
    progress.step(1, []() -> ProgressValues { throw std::runtime_error("is not asked"); });
    progress.end_epoch({{"loss", 1}});
    EXPECT_EQ(progress.training_time(), seconds(100));
  }
  EXPECT_EQ(taken(), "");
}

TEST_F(ProgressTest, OfARunThatWasResumedCountsItsOwnSteps) {
  Progress progress(stream, options(ProgressStyle::Lines).unit("tokens"));
  progress.begin_epoch(1, 2);
  now += seconds(10);
  progress.step(50);
  EXPECT_EQ(taken(), "epoch 2/2  75%: 5 tokens/s, 0:10 left\n");
}

TEST_F(ProgressTest, OfAStreamHasNoEnd) {
  Progress progress(stream, options(ProgressStyle::Lines).epochs(1).steps_per_epoch(0));
  progress.begin_epoch(0);
  now += seconds(10);
  progress.step(50, [] { return ProgressValues{{"loss", 1}}; });
  EXPECT_EQ(taken(), "epoch 1/1, step 1: loss 1; 5 samples/s\n");
}

TEST_F(ProgressTest, BeforeAnyStepHasNoSpeed) {
  Progress progress(stream, options(ProgressStyle::Lines));
  progress.begin_epoch(0);
  progress.end_epoch({{"loss", 1}});
  EXPECT_EQ(taken(), "epoch 1/2: loss 1; 0 samples/s\n");
  EXPECT_EQ(progress.samples_per_second(), 0);
}

TEST_F(ProgressTest, OfMoreStepsThanItWasToldStaysWithinTheBar) {
  Progress progress(stream, options(ProgressStyle::Bar).epochs(1).steps_per_epoch(1));
  progress.begin_epoch(0);
  now += seconds(1);
  progress.step(1);
  progress.step(1);
  now += seconds(1);
  progress.step(1);
  EXPECT_NE(taken().find("[========] 100%: 2 samples/s, 0:00 left"), std::string::npos);
}

TEST_F(ProgressTest, RefusesWhatIsOutOfRange) {
  const auto with = [&](const ProgressOptions& changed) { Progress(stream, changed); };
  expect_refusal([&] { with(ProgressOptions().epochs(0)); }, "0 epochs");
  expect_refusal([&] { with(ProgressOptions().steps_per_epoch(-1)); }, "-1 steps an epoch");
  expect_refusal([&] { with(ProgressOptions().columns(19)); }, "19 columns");
  expect_refusal([&] { with(ProgressOptions().clock({})); }, "no clock");
  Progress progress(stream, options(ProgressStyle::Lines));
  expect_refusal([&] { progress.begin_epoch(2); }, "epoch 2 of 2");
  expect_refusal([&] { progress.begin_epoch(-1); }, "epoch -1 of 2");
  expect_refusal([&] { progress.begin_epoch(0, 5); }, "5 steps are done, of 4");
}

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(milliseconds(6600)), "0:07");
  EXPECT_EQ(format_duration(seconds(750)), "12:30");
  EXPECT_EQ(format_duration(seconds(3723)), "1:02:03");
  EXPECT_EQ(format_duration(seconds(-1)), "0:00");
}

/// While it lives, stdout and stderr are these.
class Redirected {
 public:
  Redirected(int out, int error) : out_(::dup(1)), error_(::dup(2)) {
    ::dup2(out, 1);
    ::dup2(error, 2);
  }
  ~Redirected() {
    ::dup2(out_, 1);
    ::dup2(error_, 2);
    ::close(out_);
    ::close(error_);
  }
  Redirected(const Redirected&) = delete;
  Redirected& operator=(const Redirected&) = delete;

 private:
  int out_;
  int error_;
};

TEST(Progress, IsABarOnlyWhereBothStreamsAreATerminal) {
  int primary = -1;
  int terminal = -1;
  ASSERT_EQ(::openpty(&primary, &terminal, nullptr, nullptr, nullptr), 0);
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  ::setenv("TERM", "xterm", 1);
  const auto style = [](int out, int error, int rank) {
    const Redirected redirected(out, error);
    return choose_progress_style(rank);
  };
  EXPECT_EQ(style(terminal, terminal, 0), ProgressStyle::Bar);
  EXPECT_EQ(style(terminal, terminal, 1), ProgressStyle::Silent);
  EXPECT_EQ(style(terminal, pipe[1], 0), ProgressStyle::Lines);
  EXPECT_EQ(style(pipe[1], terminal, 0), ProgressStyle::Lines);
  // A bar has the width of the terminal, whose size is that of a kernel's structure.
  struct winsize size {};
  size.ws_col = 30;
  ASSERT_EQ(::ioctl(terminal, TIOCSWINSZ, &size), 0);
  const auto drawn = [](int out) {
    std::ostringstream stream;
    const Redirected redirected(out, out);
    auto now = std::chrono::steady_clock::now();
    Progress progress(stream,
                      ProgressOptions().style(ProgressStyle::Bar).steps_per_epoch(2).clock([&now] {
                        return now += seconds(1);
                      }));
    progress.begin_epoch(0);
    progress.step(1, [] { return ProgressValues{{std::string(100, 'x'), 1}}; });
    return stream.str().size() - 1;
  };
  EXPECT_EQ(drawn(terminal), 29U);
  EXPECT_EQ(drawn(pipe[1]), 79U);
  ::setenv("TERM", "dumb", 1);
  EXPECT_EQ(style(terminal, terminal, 0), ProgressStyle::Lines);
  for (const int file : {primary, terminal, pipe[0], pipe[1]}) ::close(file);
}

}  // namespace
}  // namespace lockstep::training
