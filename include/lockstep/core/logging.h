// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <functional>
#include <string_view>

/// @file
/// Where Lockstep's own remarks go. The library never writes to stdout; by default warnings and
/// errors go to stderr, one line each, and anything below is silent. `LOCKSTEP_LOG_LEVEL` (debug,
/// info, warning, error, off) changes that.
///
/// Thread-safety: any thread, any time.

namespace lockstep {
namespace logging {

/// How much a remark matters.
enum class Level {
  Debug,    ///< for those who look for a fault
  Info,     ///< what was chosen, and why
  Warning,  ///< something works, but not as it could
  Error,    ///< something has failed; as a rule it is thrown as well
  Off,      ///< no remark has it: nothing is written
};

/// Takes a remark.
using Sink = std::function<void(Level, std::string_view message)>;

/// Drops remarks below `level` from now on.
LOCKSTEP_API void set_level(Level level);
/// Remarks below it are dropped.
[[nodiscard]] LOCKSTEP_API Level level();

/// Gives a remark to the sink, unless it is below `level()`.
LOCKSTEP_API void write(Level level, std::string_view message);
/// What the default destination does: one line to stderr, whatever `level()` is. For sinks that
/// cannot reach their own.
LOCKSTEP_API void write_to_stderr(Level level, std::string_view message);
/// The name of a level, as `LOCKSTEP_LOG_LEVEL` has it.
[[nodiscard]] LOCKSTEP_API std::string_view name_of(Level level);

/// `write` of `Level::Debug`.
inline void debug(std::string_view message) {
  write(Level::Debug, message);
}
/// `write` of `Level::Info`.
inline void info(std::string_view message) {
  write(Level::Info, message);
}
/// `write` of `Level::Warning`.
inline void warning(std::string_view message) {
  write(Level::Warning, message);
}
/// `write` of `Level::Error`.
inline void error(std::string_view message) {
  write(Level::Error, message);
}

}  // namespace logging

/// Sends remarks of `logging::level()` and above to `sink`. An empty sink restores the default.
/// The sink may be called from any thread, one call at a time. It must not log itself, and not set
/// another sink. A child that is forked while another thread is in the sink has a copy of it in
/// the middle of this call: a sink that is to work in children takes no locks of its own there.
/// Blocks: while another thread is in the sink before.
///
/// `<lockstep/training/log_sinks.h>` has sinks that write to files and servers in the background.
LOCKSTEP_API void set_log_sink(logging::Sink sink);

}  // namespace lockstep
