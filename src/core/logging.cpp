// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/logging.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace lockstep {
namespace logging {
namespace {

constexpr std::array<std::string_view, 5> kNames{"debug", "info", "warning", "error", "off"};

Level level_from_environment() {
  const char* text = std::getenv("LOCKSTEP_LOG_LEVEL");
  for (std::size_t i = 0; text != nullptr && i < kNames.size(); ++i) {
    if (kNames[i] == text) return static_cast<Level>(i);
  }
  return Level::Warning;
}

struct CallLock {
  std::mutex mutex;
  CallLock* before = nullptr;  // of the process that has forked this one
};

// Where log lines go is the one setting of a process as a whole; no group, model or loader keeps
// state here.
struct Settings {
  std::mutex mutex;
  std::shared_ptr<const Sink> sink;  // nothing: stderr; guarded by mutex
  // Held while the sink is called. A fork does not wait for it: a sink may hang. In a child, there
  // is another one.
  CallLock* calls = new CallLock;          // guarded by mutex
  Level level = level_from_environment();  // guarded by mutex
};

Settings& settings();

// A child that is forked while another thread logs must be able to log too, so no other thread has
// the mutex during a fork.
Settings* make_settings() {
  ::pthread_atfork([] { settings().mutex.lock(); }, [] { settings().mutex.unlock(); },
                   [] {
                     // The one before may be held for ever: it is let go.
                     settings().calls = new CallLock{{}, settings().calls};
                     settings().mutex.unlock();
                   });
  return new Settings;
}

Settings& settings() {
  // Never destroyed: destructors of other statics may still log.
  static auto* instance = make_settings();
  return *instance;
}

}  // namespace

std::string_view name_of(Level level) {
  return kNames[static_cast<std::size_t>(level)];
}

// One write(2) a line, so that the lines of several ranks do not mix. A lost log line is no reason
// to fail.
void write_to_stderr(Level level, std::string_view message) {
  std::string line = "lockstep ";
  line.append(name_of(level)).append(": ").append(message).push_back('\n');
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

void set_level(Level level) {
  const std::lock_guard lock(settings().mutex);
  settings().level = level;
}

Level level() {
  const std::lock_guard lock(settings().mutex);
  return settings().level;
}

void write(Level level, std::string_view message) {
  auto& own = settings();
  CallLock* calls = nullptr;
  {
    const std::lock_guard lock(own.mutex);
    if (level < own.level || level == Level::Off) return;
    calls = own.calls;
  }
  const std::lock_guard lock_calls(calls->mutex);
  std::shared_ptr<const Sink> sink;
  {
    const std::lock_guard lock(own.mutex);
    sink = own.sink;
  }
  if (sink) {
    (*sink)(level, message);
  } else {
    write_to_stderr(level, message);
  }
}

}  // namespace logging

void set_log_sink(logging::Sink sink) {
  auto& settings = logging::settings();
  auto next = sink ? std::make_shared<const logging::Sink>(std::move(sink)) : nullptr;
  logging::CallLock* calls = nullptr;
  {
    const std::lock_guard lock(settings.mutex);
    calls = settings.calls;
  }
  {
    // Nobody is in the sink before when this returns.
    const std::lock_guard lock_calls(calls->mutex);
    const std::lock_guard lock(settings.mutex);
    std::swap(settings.sink, next);
  }
  // Here the sink before ends, which may log, or wait for a thread that does.
}

}  // namespace lockstep
