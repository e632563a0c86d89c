// SPDX-License-Identifier: BSD-3-Clause
#include "core/exception_text.h"

#include <c10/util/Exception.h>

namespace lockstep {

std::string exception_text(const std::exception_ptr& error, const char* otherwise) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& caught) {
    return caught.what_without_backtrace();
  } catch (const std::exception& caught) {
    return caught.what();
  } catch (...) {
    return otherwise;
  }
}

}  // namespace lockstep
