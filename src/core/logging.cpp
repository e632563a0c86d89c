// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

namespace lockstep::logging {
namespace {

constexpr std::array<std::string_view, 5> kNames{"debug", "info", "warning", "error", "off"};

Level level_from_environment() {
  const char* text = std::getenv("LOCKSTEP_LOG_LEVEL");
  for (std::size_t i = 0; text != nullptr && i < kNames.size(); ++i) {
    if (kNames[i] == text) return static_cast<Level>(i);
  }
  return Level::Warning;
}

// Where log lines go is the one setting of a process as a whole; no group, model or loader keeps
// state here.
struct Settings {
  std::mutex mutex;
  Sink sink;                               // guarded by mutex
  Level level = level_from_environment();  // guarded by mutex
};

Settings& settings() {
  static auto* instance =
      new Settings;  // never destroyed: destructors of other statics may still log
  return *instance;
}

// One write(2) a line, so that the lines of several ranks do not mix. A lost log line is no reason
// to fail.
void write_to_stderr(Level level, std::string_view message) {
  std::string line = "lockstep ";
  line.append(kNames[static_cast<std::size_t>(level)]).append(": ").append(message).push_back('\n');
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

void set_sink(Sink sink) {
  const std::lock_guard lock(settings().mutex);
  settings().sink = std::move(sink);
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
  const std::lock_guard lock(settings().mutex);
  if (level < settings().level || level == Level::Off) return;
  if (settings().sink) {
    settings().sink(level, message);
  } else {
    write_to_stderr(level, message);
  }
}

}  // namespace lockstep::logging
