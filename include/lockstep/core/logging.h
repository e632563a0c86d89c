// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <functional>
#include <string_view>

/// Where Lockstep's own remarks go. The library never writes to stdout; by default warnings and
/// errors go to stderr, one line each, and anything below is silent. `LOCKSTEP_LOG_LEVEL` (debug,
/// info, warning, error, off) changes that.
namespace lockstep::logging {

enum class Level { Debug, Info, Warning, Error, Off };

using Sink = std::function<void(Level, std::string_view message)>;

/// Sends messages of `level` and above to `sink`. An empty sink restores the default.
/// Thread-safety: any thread, any time; the sink may be called from any thread, one call at a time.
LOCKSTEP_API void set_sink(Sink sink);
LOCKSTEP_API void set_level(Level level);
[[nodiscard]] LOCKSTEP_API Level level();

LOCKSTEP_API void write(Level level, std::string_view message);
inline void debug(std::string_view message) {
  write(Level::Debug, message);
}
inline void info(std::string_view message) {
  write(Level::Info, message);
}
inline void warning(std::string_view message) {
  write(Level::Warning, message);
}
inline void error(std::string_view message) {
  write(Level::Error, message);
}

}  // namespace lockstep::logging
