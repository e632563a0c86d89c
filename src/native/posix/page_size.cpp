// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/page_size.h"

#include <unistd.h>

#include <cerrno>
#include <limits>

#include "native/posix/posix_check.h"

namespace lockstep::native {

std::size_t round_up_to_page(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > std::numeric_limits<std::size_t>::max() - page) {
    throw_errno("shared memory for data workers: the size does not fit", ENOMEM);
  }
  return (bytes + page - 1) / page * page;
}

}  // namespace lockstep::native
