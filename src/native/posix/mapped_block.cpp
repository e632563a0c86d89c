// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/mapped_block.h"

#include <sys/mman.h>

#include "native/posix/page_size.h"

namespace lockstep::native {

MappedBlock::~MappedBlock() {
  if (memory_ != nullptr) ::munmap(memory_, bytes_);  // the kernel rounds up
}

void MappedBlock::drop() noexcept {
  ::madvise(memory_, round_up_to_page(bytes_), MADV_REMOVE);
}

}  // namespace lockstep::native
