// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include <sstream>
#include <utility>

namespace lockstep {
namespace {

std::string describe(const CommContext& context, const std::string& reason,
                     const std::string& hint) {
  std::ostringstream text;
  text << context.op << " #" << context.sequence << " (" << context.backend << ") failed on rank "
       << context.rank << " of " << context.world_size << ": " << reason;
  if (!hint.empty()) text << ". Hint: " << hint;
  return std::move(text).str();
}

}  // namespace

// No backtrace: that keeps what() to one line; the place that matters is another rank's anyway.
LaunchError::LaunchError(const std::string& message) : DistError(message) {}

CommError::CommError(CommContext context, const std::string& reason, const std::string& hint)
    : DistBackendError(describe(context, reason, hint)), context_(std::move(context)) {}

}  // namespace lockstep
