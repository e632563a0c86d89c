// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/loader/worker_error.h>

#include <sstream>
#include <utility>

namespace lockstep::data {
namespace {

std::string describe(const WorkerError::Context& context) {
  std::ostringstream text;
  if (context.worker >= 0) {
    text << "data worker " << context.worker << " (pid " << context.pid << ")";
  } else {
    text << "data loader (pid " << context.pid << ")";
  }
  if (context.failure == WorkerFailure::Exception)
    text << " failed";
  else
    text << ' ' << context.message;
  if (context.sample) text << " at sample " << *context.sample;
  if (!context.path.empty()) text << " (" << context.path << ")";
  if (context.batch) text << (context.sample ? " of batch " : " at batch ") << *context.batch;
  if (context.failure == WorkerFailure::Exception) {
    text << ": ";
    if (!context.exception_type.empty()) text << context.exception_type << ": ";
    text << context.message;
  }
  return std::move(text).str();
}

}  // namespace

WorkerError::WorkerError(const Context& context)
    : WorkerFailedError(describe(context), context),
      batch_(context.batch),
      sample_(context.sample),
      path_(context.path) {}

}  // namespace lockstep::data
