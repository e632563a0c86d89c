// SPDX-License-Identifier: BSD-3-Clause
// The program is linked with `--wrap` for `FileSystem::of_machine`: whoever calls that function
// calls the first one below, and the second one is the library's.
#include "support/chosen_file_system.h"

#include <atomic>

namespace lockstep::native {

FileSystem& chosen_file_system() __asm__("__wrap__ZN8lockstep6native10FileSystem10of_machineEv");
FileSystem& real_file_system() __asm__("__real__ZN8lockstep6native10FileSystem10of_machineEv");

namespace {
std::atomic<FileSystem*> chosen{nullptr};
}  // namespace

FileSystem& chosen_file_system() {
  FileSystem* files = chosen.load();
  return files == nullptr ? real_file_system() : *files;
}

}  // namespace lockstep::native

namespace lockstep::testing {

ChosenFileSystem::ChosenFileSystem(native::FileSystem& files) {
  native::chosen = &files;
}

ChosenFileSystem::~ChosenFileSystem() {
  native::chosen = nullptr;
}

}  // namespace lockstep::testing
