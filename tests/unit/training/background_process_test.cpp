// SPDX-License-Identifier: BSD-3-Clause
// What is left of the lines of a process that ends in whichever way.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <thread>

#include "native/posix/futex.h"
#include "native/posix/process_end.h"
#include "native/posix/signal_flag.h"
#include "support/forks.h"
#include "support/free_port.h"
#include "support/log_servers.h"
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

TEST_F(BackgroundProcess, NoneEndsTheProcessBeforeTheOthersAreTold) {
  using native::ProcessEnd;
  constexpr std::size_t kPlaces = 63;
  for (int round = 0; round < 20; ++round) {
    std::filesystem::remove(log());
    const int status = run([&] {
      std::vector<std::unique_ptr<ProcessEnd>> ends;
      for (std::size_t i = 0; i < kPlaces; ++i) {
        ends.push_back(std::make_unique<ProcessEnd>(milliseconds(0)));
      }
      // One that is ready as soon as it is told, and one that needs a moment.
      std::thread fast([&] {
        while ((ends.front()->word() & ProcessEnd::kSoon) == 0) continue;
        ends.front()->ready();
      });
      std::thread slow([&] {
        auto& word = ends.back()->word();
        while ((word & ProcessEnd::kSoon) == 0) native::futex_wait(word, 0, milliseconds(100));
        write_bytes(log(), "told");
        for (std::size_t i = 1; i < kPlaces; ++i) ends[i]->ready();
      });
      // Several signals at once are one.
      std::thread another([] { ::kill(::getpid(), SIGTERM); });
      ::kill(::getpid(), SIGTERM);
      wait_for_the_end();
    });
    ASSERT_TRUE(ended_by(status, SIGTERM)) << status;
    ASSERT_EQ(read_bytes(log()), "told") << "round " << round;
  }
}

TEST_F(BackgroundProcess, TheFirstProcessOfAContainerEndsToo) {
  const int status = run([&] {
    const bool may = ::unshare(CLONE_NEWPID) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0;
    if (!may) ::_exit(77);
    const pid_t first = ::fork();
    if (first == 0) {
      BackgroundWriter writer(slow());
      append_lines(writer, log());
      ::raise(SIGTERM);
      wait_for_the_end();
    }
    int its = 0;
    ::waitpid(first, &its, 0);
    ::_exit(WIFEXITED(its) ? WEXITSTATUS(its) : 1);
  });
  ASSERT_TRUE(WIFEXITED(status)) << status;
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this machine lets us make no such process";
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
}

TEST_F(BackgroundProcess, HandlersOfTerminateThatCallEachOtherEnd) {
  static std::terminate_handler writers;
  const int status = run([&] {
    std::optional<BackgroundWriter> writer(std::in_place);
    writers = std::get_terminate();
    std::set_terminate([] { writers(); });
    writer.reset();
    writer.emplace(slow());
    append_lines(*writer, log());
    std::thread([] { throw std::runtime_error("nobody catches it"); }).join();
  });
  EXPECT_TRUE(ended_by(status, SIGABRT)) << status;
  EXPECT_EQ(count_lines(log()), static_cast<std::size_t>(kProcessLines));
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
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status << errors();
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
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status << errors();
  EXPECT_EQ(count_lines(log()), 2U);
}

/// Runs handlers of `exit` that others have registered after the writer, as OpenSSL does.
TEST_F(BackgroundProcess, LinesForServersAreSentBeforeTheHandlersOfExitOfOthers) {
  static std::shared_ptr<BackgroundWriter> writer;
  testing::HttpServer server({testing::HttpServer::Answer()});
  const int status = run([&] {
    writer = std::make_shared<BackgroundWriter>(slow());
    std::atexit([] { ::_exit(writer->statistics().lines_written == 1 ? 0 : 4); });
    const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
    sink(logging::Level::Info, "line");
    std::exit(3);
  });
  EXPECT_EQ(status, 0);
}

TEST_F(BackgroundProcess, LinesForServersThatComeDuringExitGoToStderrOrTheSpool) {
  testing::HttpServer server({testing::HttpServer::Answer()});
  for (const bool has_spool : {false, true}) {
    std::filesystem::remove(folder_ / "errors");
    const int status = run([&] {
      std::atexit([] { logging::warning("from a handler"); });
      auto options = OtlpOptions().endpoint(server.url());
      if (has_spool) options.spool(SpoolOptions().file(folder_ / "spool"));
      set_log_sink(otlp_log(std::make_shared<BackgroundWriter>(slow()), options));
      logging::warning("before");
      std::exit(3);
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status << errors();
    const auto& place = has_spool ? read_bytes(folder_ / "spool") : errors();
    EXPECT_NE(place.find("from a handler"), std::string::npos) << has_spool << place;
    EXPECT_EQ(place.find("before"), std::string::npos);
  }
  EXPECT_EQ(server.requests.size(), 2U);
}

TEST_F(BackgroundProcess, ASaveThatSigtermCutsShortIsInTheLog) {
  /// All of these tensors take seconds.
  class Slow final : public native::FileSystem {
   public:
    ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
      if (bytes.size() > 50'000) std::this_thread::sleep_for(milliseconds(5));
      return FileSystem::write(file, bytes, offset);
    }
  };
  // Made here: the child has no threads of LibTorch.
  std::map<std::string, at::Tensor> tensors;
  for (int i = 0; i < 600; ++i) tensors[std::to_string(i)] = torch::ones({1 << 14});
  const int status = run([&] {
    static Slow files;
    const std::shared_ptr<BackgroundWriter> writer = WriterAccess::make(slow(), files);
    set_log_sink(file_log(writer, log()));
    const auto saved = writer->save_async(tensors, folder_ / "tensors");
    writer->append(folder_ / "tensors", "a line behind it");
    ::kill(::getpid(), SIGTERM);
    wait_for_the_end();
  });
  EXPECT_TRUE(ended_by(status, SIGTERM)) << status;
  EXPECT_NE(read_bytes(log()).find("tensors: there was no time to write it"), std::string::npos);
  EXPECT_FALSE(read_bytes(folder_ / "tensors").empty());  // the line
}

TEST_F(BackgroundProcess, WithoutAnEndAllIsWrittenAfterAMomentAndSigkillTakesNoneAway) {
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
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's allocator does not survive a fork while other threads use it";
#endif
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

TEST_F(BackgroundProcess, AForkHasNoConnectionAndNoFileOfTheWriter) {
  testing::HttpServer server({testing::HttpServer::Answer()});
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
  sink(logging::Level::Info, "line");
  writer->append(log(), "line");
  ASSERT_TRUE(writer->flush(kTestPatience));
  const int status = run([&] {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      struct stat info {};
      const int number = std::stoi(entry.path().filename());
      if (::fstat(number, &info) != 0) continue;
      if (std::filesystem::exists(log()) && std::filesystem::exists(entry) &&
          std::filesystem::equivalent(entry, log())) {
        ::_exit(1);
      }
      sockaddr_in peer{};
      socklen_t size = sizeof(peer);
      if (::getpeername(number, reinterpret_cast<sockaddr*>(&peer), &size) == 0 &&
          peer.sin_port == htons(server.port())) {
        ::_exit(2);
      }
    }
    ::_exit(0);
  });
  EXPECT_EQ(status, 0);
}

TEST_F(BackgroundProcess, AForkDoesNotWaitForASinkThatHangs) {
  const int status = run([&] {
    testing::Signal is_there("until a thread was in the sink");
    set_log_sink([&](logging::Level, std::string_view) {
      // A sink may fork, too.
      const int its = status_of_child(folder_ / "errors", [] { ::_exit(0); });
      if (its != 0) ::_exit(1);
      is_there.give();
      wait_for_the_end();
    });
    std::thread hanging([] { logging::warning("hangs"); });
    is_there.wait();
    const int its = status_of_child(folder_ / "errors", [] {
      set_log_sink({});
      logging::warning("said by the child");
      ::_exit(0);
    });
    ::_exit(its == 0 ? 0 : 2);
  });
  EXPECT_EQ(status, 0);
  EXPECT_NE(errors().find("said by the child"), std::string::npos);
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
