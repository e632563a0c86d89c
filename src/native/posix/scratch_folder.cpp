// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/scratch_folder.h"

#include <stdlib.h>

#include <cerrno>
#include <system_error>

#include "native/posix/file_tree.h"

namespace lockstep::native {

ScratchFolder::ScratchFolder(const std::string& parent, const std::string& prefix) : path_(parent) {
  path_ += '/';
  path_ += prefix;
  path_ += "XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), "no file can be made in " + parent);
  }
}

ScratchFolder::~ScratchFolder() {
  static_cast<void>(remove_tree(path_));  // best effort: it is no result
}

}  // namespace lockstep::native
