// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/stream.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "native/posix/posix_check.h"

namespace lockstep {
namespace {

// What one call moves at most: enough that the call itself costs nothing, little enough that both
// directions and all streams have their turn.
constexpr std::size_t kCallBytes = std::size_t{256} << 10;
constexpr int kCallsATurn = 4;
constexpr std::size_t kPartsACall = 16;

template <typename Call>
ssize_t until_not_interrupted(Call call) {
  ssize_t result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace

void ReadyStreams::add(TcpStream& stream) {
  if (std::exchange(stream.is_queued_, true)) return;
  streams_.push_back(&stream);
}

TcpStream* ReadyStreams::take() {
  if (streams_.empty()) return nullptr;
  TcpStream* stream = streams_.front();
  streams_.pop_front();
  stream->is_queued_ = false;
  return stream;
}

void TcpStream::send(std::span<const std::byte> bytes, Done done) {
  sends_.push_back({bytes, std::move(done)});
  if (is_writable_) ready_.add(*this);
}

void TcpStream::receive(std::span<std::byte> bytes, Done done) {
  receives_.push_back({bytes, std::move(done)});
  if (is_readable_) ready_.add(*this);
}

void TcpStream::flush() {
  while (write_some() > 0) {
  }
}

bool TcpStream::advance() {
  for (int call = 0; call < kCallsATurn; ++call) {
    // In turns: whoever only sends keeps the other rank from sending.
    const std::size_t written = write_some();
    const std::size_t read = read_some();
    if (written == 0 && read == 0) return false;
  }
  return true;
}

std::size_t TcpStream::write_some() {
  if (!is_writable_ || sends_.empty() || !end_text_.empty() || !write_error_.empty()) return 0;
  std::array<iovec, kPartsACall> parts{};
  std::size_t count = 0;
  std::size_t bytes = 0;
  for (const Send& one : sends_) {
    if (count == parts.size() || bytes == kCallBytes) break;
    const std::size_t part = std::min(one.bytes.size(), kCallBytes - bytes);
    parts[count++] = {const_cast<std::byte*>(one.bytes.data()), part};
    bytes += part;
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  const auto sent = until_not_interrupted(
      [&] { return ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  if (sent < 0) {
    if (errno == EAGAIN) {
      is_writable_ = false;
    } else {
      fail_writing(native::error_text(errno));
    }
    return 0;
  }
  if (static_cast<std::size_t>(sent) < bytes) is_writable_ = false;
  consume_sent(static_cast<std::size_t>(sent));
  return static_cast<std::size_t>(sent);
}

void TcpStream::consume_sent(std::size_t bytes) {
  while (bytes > 0) {
    Send& first = sends_.front();
    const std::size_t part = std::min(bytes, first.bytes.size());
    first.bytes = first.bytes.subspan(part);
    bytes -= part;
    if (!first.bytes.empty()) return;
    const Done done = std::move(first.done);
    sends_.pop_front();
    if (done) done();
  }
}

std::size_t TcpStream::read_some() {
  if (!end_text_.empty()) return 0;
  if (receives_.empty() && !write_error_.empty()) end(write_error_);
  if (!is_readable_ || receives_.empty()) return 0;
  Receive& first = receives_.front();
  const std::size_t wanted = std::min(first.bytes.size(), kCallBytes);
  const auto count = until_not_interrupted(
      [&] { return ::recv(socket_.get(), first.bytes.data(), wanted, MSG_DONTWAIT); });
  if (count <= 0) {
    const bool is_empty = count < 0 && errno == EAGAIN;
    if (is_empty) is_readable_ = false;
    if (!write_error_.empty()) {
      end(write_error_);
    } else if (!is_empty) {
      end(count == 0 ? "the connection was closed" : native::error_text(errno));
    }
    return 0;
  }
  const auto read = static_cast<std::size_t>(count);
  first.bytes = first.bytes.subspan(read);
  if (first.bytes.empty()) {
    const Done done = std::move(first.done);
    receives_.pop_front();
    if (done) done();
  } else if (read < wanted && !is_closing_) {
    is_readable_ = false;
  }
  return read;
}

void TcpStream::note_events(bool is_readable, bool is_writable, bool has_ended) {
  is_closing_ = is_closing_ || has_ended;
  is_readable_ = is_readable_ || is_readable || has_ended;
  is_writable_ = is_writable_ || is_writable || has_ended;
  if (has_ended && receives_.empty() && sends_.empty()) look_for_error();
  if ((is_readable_ && !receives_.empty()) || (is_writable_ && !sends_.empty())) ready_.add(*this);
}

void TcpStream::end(std::string text) {
  end_text_ = std::move(text);
}

void TcpStream::fail_writing(std::string text) {
  write_error_ = std::move(text);
  // What the other rank sent before, such as why it has aborted, can still be read.
  is_closing_ = is_readable_ = true;
}

void TcpStream::look_for_error() {
  // A host that is gone shows by the probes on a connection without traffic, perhaps only by those.
  int error = 0;
  socklen_t bytes = sizeof(error);
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
  if (error != 0 && end_text_.empty()) end(native::error_text(error));
}

void TcpStream::abandon() {
  sends_.clear();
  receives_.clear();
  if (end_text_.empty()) end("the group has aborted");
}

}  // namespace lockstep
