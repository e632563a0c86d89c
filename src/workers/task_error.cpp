// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/workers/task_error.h>

#include <string>

namespace lockstep {
namespace {

std::string describe_item(std::size_t item, const WorkerFailedError::Context& context) {
  std::string text = "item " + std::to_string(item) + " failed: ";
  if (!context.exception_type.empty()) text += context.exception_type + ": ";
  return text + context.message;
}

}  // namespace

TaskError::TaskError(std::size_t item, const Context& context)
    : WorkerFailedError(describe_item(item, context), context), item_(item) {}

}  // namespace lockstep
