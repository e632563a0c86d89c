// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/read_engine.h"

#include <cerrno>

#include "native/posix/posix_check.h"

namespace lockstep::native {

bool is_end_of_direct(const ReadRequest& request, const ReadResult& result, int error) noexcept {
  return request.is_direct && error == EINVAL && result.bytes != 0;
}

void throw_if_failed(const ReadResult& result, const std::string& path) {
  if (result.error != 0) throw_errno(path + ": cannot be read", result.error);
}

}  // namespace lockstep::native
