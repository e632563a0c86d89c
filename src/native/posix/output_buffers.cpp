// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/output_buffers.h"

#include <stdio_ext.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>

namespace lockstep::native {
namespace {

template <class Char>
using Streams = std::array<std::basic_ostream<Char>*, 3>;

Streams<char> streams() {
  return {&std::cout, &std::cerr, &std::clog};
}
Streams<wchar_t> wide_streams() {
  return {&std::wcout, &std::wcerr, &std::wclog};
}

// Names the members that only heirs may use.
template <class Char>
struct Buffer : std::basic_streambuf<Char> {
  using Base = std::basic_streambuf<Char>;
  static std::ptrdiff_t pending(Base& buffer) {
    return (buffer.*&Buffer::pptr)() - (buffer.*&Buffer::pbase)();
  }
  static void drop(Base& buffer) {
    while (pending(buffer) > 0) {
      const auto count = std::min<std::ptrdiff_t>(pending(buffer), std::numeric_limits<int>::max());
      (buffer.*&Buffer::pbump)(-static_cast<int>(count));
    }
  }
};

// With sync_with_stdio these have no buffers of their own, and nothing is pending. A program's own
// buffer that is no file, such as a text in memory, keeps what it has.
template <class Char>
void drop_pending(const Streams<Char>& all) {
  for (auto* stream : all) {
    auto* file = dynamic_cast<std::basic_filebuf<Char>*>(stream->rdbuf());
    if (file != nullptr) Buffer<Char>::drop(*file);
  }
}

template <class Char>
void flush(const Streams<Char>& all) {
  for (auto* stream : all) {
    // What a buffer of the program's own had inherited would be written by two processes.
    const bool is_known = dynamic_cast<std::basic_filebuf<Char>*>(stream->rdbuf()) != nullptr;
    if (is_known) stream->flush();
  }
}

}  // namespace

void drop_inherited_output() noexcept {
  try {
    drop_pending(streams());
    drop_pending(wide_streams());
  } catch (...) {  // text that is written twice is better than lost text
  }
  ::__fpurge(stdout);
  ::__fpurge(stderr);
  ::setlinebuf(stdout);
}

void write_pending_output() noexcept {
  try {
    flush(streams());
    flush(wide_streams());
  } catch (...) {  // exceptions() of a stream: there is nobody left to tell
  }
  std::fflush(stdout);
  std::fflush(stderr);
}

}  // namespace lockstep::native
