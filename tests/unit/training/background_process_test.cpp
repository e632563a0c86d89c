// SPDX-License-Identifier: BSD-3-Clause
// What is left of the lines of a process that ends in whichever way.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <exception>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "native/posix/signal_flag.h"
#include "support/forks.h"
#include "support/free_port.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"
#include "training/background/writer_access.h"

namespace lockstep::training {
namespace {

using std::chrono::milliseconds;
using testing::kTestPatience;
using testing::limit_child;

constexpr int kProcessLines = 2000;

/// Everything stays in the queue until the process ends, were it not for its end.
BackgroundWriterOptions slow() {
  return BackgroundWriterOptions().batch_delay(std::chrono::seconds(1));
}

void append_lines(BackgroundWriter& writer, const std::filesystem::path& path) {
  for (int i = 0; i < kProcessLines; ++i) writer.append(path, "line " + std::to_string(i));
}

std::size_t count_lines(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::size_t count = 0;
  for (std::string line; std::getline(file, line);) ++count;
  return count;
}

/// Runs `body` in a child whose stderr is a file of this name. Returns the status of `waitpid`.
int status_of_child(const std::filesystem::path& errors, const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    limit_child();
    // Not the ones of this program's tests, whose writers are not here.
    ::signal(SIGTERM, SIG_DFL);
    const int file = ::open(errors.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(file, STDERR_FILENO);
    body();
    ::_exit(123);
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return -1;
  return status;
}

bool ended_by(int status, int signal) {
  return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

void wait_for_the_end() {
  while (true) ::pause();
}

class BackgroundProcess : public ::testing::Test {
 protected:
  int run(const std::function<void()>& body) { return status_of_child(folder_ / "errors", body); }
  std::string errors() { return read_bytes(folder_ / "errors"); }
  std::filesystem::path log() { return folder_ / "log"; }

  TemporaryFolder folder_;
};

TEST_F(BackgroundProcess, SigtermWritesAllAndEndsBySigterm) {
  const int status = run([&] {
    BackgroundWriter writer(slow());
    BackgroundWriter another(slow());
    append_lines(writer, log());
    append_lines(another, folder_ / "other");
    const auto file = writer.write_file(folder_ / "file", "text");
    ::kill(::getpid(), SIGTERM);
    wait_for_the_end();
  });
  EXPECT_TRUE(ended_by(status, SIGTERM)) << status;
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
  EXPECT_EQ(count_lines(folder_ / "other"), static_cast<std::size_t>(kProcessLines));
  EXPECT_EQ(read_bytes(folder_ / "file"), "text");
  EXPECT_EQ(errors(), "");
}

TEST_F(BackgroundProcess, AnExceptionThatNobodyCatchesWritesAll) {
  const int status = run([&] {
    std::set_terminate([] {
      const char text[] = "the handler before\n";
      [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, sizeof(text) - 1);
      std::abort();
    });
    BackgroundWriter writer(slow());
    append_lines(writer, log());
    std::thread([] { throw std::runtime_error("nobody catches it"); }).join();
  });
  EXPECT_TRUE(ended_by(status, SIGABRT)) << status;
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
  EXPECT_NE(errors().find("the handler before"), std::string::npos);
}

TEST_F(BackgroundProcess, AnExceptionThatSomebodyCatchesWritesAll) {
  const int status = run([&] {
    try {
      BackgroundWriter writer(slow());
      append_lines(writer, log());
      throw std::runtime_error("somebody catches it");
    } catch (const std::runtime_error&) {
      ::_exit(5);
    }
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 5) << status;
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
}

TEST_F(BackgroundProcess, ExitWritesAllThoughTheSinkKeepsTheWriter) {
  const int status = run([&] {
    set_log_sink(file_log(std::make_shared<BackgroundWriter>(slow()), log()));
    for (int i = 0; i < kProcessLines; ++i) logging::warning("line");
    // Statics that are older than the writer are destroyed after its part at exit.
    std::exit(3);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status;
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
}

TEST_F(BackgroundProcess, LinesAfterTheBeginOfExitAreWrittenToo) {
  const int status = run([&] {
    // Called after what is registered later.
    std::atexit([] { logging::warning("from a handler"); });
    set_log_sink(file_log(std::make_shared<BackgroundWriter>(slow()), log()));
    logging::warning("before");
    std::exit(3);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status;
  EXPECT_EQ(count_lines(log()), 2U);
}

TEST_F(BackgroundProcess, SigkillLosesNothingThatTheThreadHasSeen) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    limit_child();
    BackgroundWriter writer;  // nobody flushes it
    append_lines(writer, log());
    wait_for_the_end();
  }
  // Without a call of the program's, all of it is in the file after a moment.
  const bool is_there = testing::happens(
      [&] { return count_lines(log()) == static_cast<std::size_t>(kProcessLines); });
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(is_there);
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
}

TEST_F(BackgroundProcess, ADeadServerDelaysTheEndByASecondAndLinesAreCounted) {
  const int status = run([&] {
    const auto writer = std::make_shared<BackgroundWriter>(slow());
    const auto sink = otlp_log(
        writer, OtlpOptions().endpoint("http://127.0.0.1:" + std::to_string(testing::free_port())));
    for (int i = 0; i < 7; ++i) sink(logging::Level::Warning, "line");
    ::kill(::getpid(), SIGTERM);
    wait_for_the_end();
  });
  EXPECT_TRUE(ended_by(status, SIGTERM)) << status;
  EXPECT_NE(errors().find("7 lines were lost here"), std::string::npos) << errors();
}

TEST_F(BackgroundProcess, AThreadThatHangsDoesNotKeepTheProcessAlive) {
  class Hanging final : public native::FileSystem {
   public:
    ssize_t write(int, std::span<const std::byte>, std::uint64_t) override {
      while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  };
  const int status = run([&] {
    static Hanging files;
    static const auto writer = WriterAccess::make({}, files);
    writer->append(log(), "line");
    ::kill(::getpid(), SIGTERM);
    wait_for_the_end();
  });
  EXPECT_TRUE(ended_by(status, SIGTERM)) << status;
}

TEST_F(BackgroundProcess, AHandlerOfTheProgramsIsLeftAlone) {
  static std::atomic<int> calls{0};
  const int status = run([&] {
    ::signal(SIGTERM, [](int) { ++calls; });
    {
      BackgroundWriter writer(slow());
      append_lines(writer, log());
      ::raise(SIGTERM);
      if (calls != 1) ::_exit(1);
    }
    ::raise(SIGTERM);
    ::_exit(calls == 2 ? 0 : 2);
  });
  EXPECT_EQ(status, 0);
}

TEST_F(BackgroundProcess, TheDispositionComesBack) {
  const int status = run([&] {
    { BackgroundWriter writer; }
    struct sigaction now {};
    ::sigaction(SIGTERM, nullptr, &now);
    if (now.sa_handler != SIG_DFL) ::_exit(1);
    const auto terminate = std::get_terminate();
    std::optional<BackgroundWriter> writer(std::in_place);
    if (std::get_terminate() == terminate) ::_exit(2);
    writer.reset();
    ::_exit(std::get_terminate() == terminate ? 0 : 3);
  });
  EXPECT_EQ(status, 0);
}

/// What a StopRequest has.
using native::SignalFlag;
constexpr std::array<int, 1> kTerm{SIGTERM};

TEST_F(BackgroundProcess, AStopRequestGoesFirstInWhicheverOrder) {
  for (const bool is_writer_first : {true, false}) {
    std::filesystem::remove(log());
    const int status = run([&] {
      std::optional<BackgroundWriter> writer;
      std::optional<SignalFlag> flag;
      if (is_writer_first) writer.emplace(slow());
      flag.emplace(kTerm);
      if (!is_writer_first) writer.emplace(slow());
      append_lines(*writer, log());
      ::raise(SIGTERM);
      if (!flag->is_raised()) ::_exit(1);
      flag.reset();
      // From now on, the writer's.
      ::kill(::getpid(), SIGTERM);
      wait_for_the_end();
    });
    EXPECT_TRUE(ended_by(status, SIGTERM)) << status << " " << is_writer_first;
    EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines)) << is_writer_first;
  }
}

TEST_F(BackgroundProcess, AStopRequestMayOutliveTheWriter) {
  for (const bool is_writer_first : {true, false}) {
    const int status = run([&] {
      std::optional<BackgroundWriter> writer;
      std::optional<SignalFlag> flag;
      if (is_writer_first) writer.emplace();
      flag.emplace(kTerm);
      if (!is_writer_first) writer.emplace();
      writer.reset();
      ::raise(SIGTERM);
      if (!flag->is_raised()) ::_exit(1);
      flag.reset();
      ::raise(SIGTERM);
      ::_exit(2);
    });
    EXPECT_TRUE(ended_by(status, SIGTERM)) << status << " " << is_writer_first;
  }
}

TEST_F(BackgroundProcess, CopiesInForksDoNothingWhileOthersLog) {
  constexpr int kThreads = 4;
  constexpr int kForks = 40;
  auto writer = std::make_shared<BackgroundWriter>();
  set_log_sink(file_log(writer, log()));
  std::atomic<bool> is_over{false};
  std::atomic<int> logged{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      while (!is_over) {
        logging::warning("parent");
        ++logged;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    });
  }
  std::string failures;
  for (int i = 0; i < kForks; ++i) {
    const int status = status_of_child(folder_ / "errors", [&] {
      logging::warning("child");
      if (writer->append(folder_ / "other", "child")) ::_exit(1);
      auto file = writer->write_file(folder_ / "other", "child");
      auto tensors = writer->save_async({}, folder_ / "other");
      for (auto* future : {&file, &tensors}) {
        try {
          future->get();
          ::_exit(2);
        } catch (const c10::Error& error) {
          if (std::string(error.what()).find("copy in a fork") == std::string::npos) ::_exit(3);
        }
      }
      if (!writer->flush(kTestPatience)) ::_exit(4);
      if (writer->statistics().lines != 0) ::_exit(5);
      set_log_sink({});
      writer.reset();
      // One of its own works.
      BackgroundWriter own;
      own.append(folder_ / "own", "child");
      ::_exit(own.flush(kTestPatience) ? 0 : 6);
    });
    if (status != 0) failures += " " + std::to_string(status);
  }
  is_over = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failures, "");
  ASSERT_TRUE(writer->flush(kTestPatience));
  set_log_sink({});
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(logged.load()));
  EXPECT_EQ(read_bytes(log()).find("child"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "other"));
  EXPECT_EQ(count_lines(folder_ / "own"), static_cast<std::size_t>(kForks));
  EXPECT_EQ(count_lines(folder_ / "errors"), static_cast<std::size_t>(kForks)) << errors();
}

TEST_F(BackgroundProcess, AForkEndsBySigtermAtOnce) {
  BackgroundWriter writer;
  const pid_t child = ::fork();
  if (child == 0) {
    limit_child();
    ::raise(SIGTERM);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(ended_by(status, SIGTERM)) << status;
}

}  // namespace
}  // namespace lockstep::training
