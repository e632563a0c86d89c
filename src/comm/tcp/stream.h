// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <span>
#include <string>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_descriptor.h"

namespace lockstep {

class TcpStream;

/// The streams that may be able to move something.
class ReadyStreams {
 public:
  void add(TcpStream& stream);
  /// Null: there is none.
  [[nodiscard]] TcpStream* take();

 private:
  std::deque<TcpStream*> streams_;
};

/// A connection to one rank, over which bytes go in both directions in the order of the calls. What
/// is sent and received is memory of the caller, which stays until `done` is called: there is no
/// copy but the kernel's. Nothing is read from the connection before it is asked for, so a sender
/// that is ahead waits in its own kernel.
///
/// Thread-safety: one thread at a time (`TcpEngine::mutex`). Holds no torch.
class TcpStream {
 public:
  using Done = std::function<void()>;

  /// The socket does not block.
  TcpStream(native::FileDescriptor socket, int peer, ReadyStreams& ready)
      : socket_(std::move(socket)), close_on_fork_(socket_.get()), peer_(peer), ready_(ready) {}
  TcpStream(const TcpStream&) = delete;
  TcpStream& operator=(const TcpStream&) = delete;

  [[nodiscard]] int peer() const noexcept { return peer_; }
  [[nodiscard]] int socket() const noexcept { return socket_.get(); }

  /// `bytes` is not empty. `done` is called when the kernel has them all. It may start more.
  void send(std::span<const std::byte> bytes, Done done = {});
  /// `bytes` is not empty. `done` is called when all have come.
  void receive(std::span<std::byte> bytes, Done done = {});

  /// Sends what the kernel takes now. No callback but those of what is sent runs in it.
  void flush();
  /// Moves bytes until the kernel takes and has no more, or others should have a turn: true then.
  /// Never blocks.
  bool advance();
  /// What the kernel has said about the socket. `has_ended`: no more bytes come behind those that
  /// can be read, or there was an error.
  void note_events(bool is_readable, bool is_writable, bool has_ended);

  /// Why no more bytes can come or go; empty: they can.
  [[nodiscard]] const std::string& end_text() const noexcept { return end_text_; }
  [[nodiscard]] bool has_unsent() const noexcept { return !sends_.empty(); }
  [[nodiscard]] bool has_unreceived() const noexcept { return !receives_.empty(); }

  /// Forgets all that has not moved; the memory is the caller's again. What has been sent in part
  /// makes the connection useless, so that it ends.
  void abandon();

 private:
  friend class ReadyStreams;

  struct Send {
    std::span<const std::byte> bytes;
    Done done;
  };
  struct Receive {
    std::span<std::byte> bytes;
    Done done;
  };

  /// How many bytes have moved.
  std::size_t write_some();
  std::size_t read_some();
  void consume_sent(std::size_t bytes);
  void end(std::string text);
  void fail_writing(std::string text);
  void look_for_error();

  native::FileDescriptor socket_;
  native::CloseOnFork close_on_fork_;  // a child that outlives this rank would hide its end
  int peer_;
  ReadyStreams& ready_;
  std::deque<Send> sends_;
  std::deque<Receive> receives_;
  bool is_readable_ = true;  // as far as is known
  bool is_writable_ = true;
  bool is_closing_ = false;  // the kernel will not say again that the end can be read
  bool is_queued_ = false;
  std::string write_error_;
  std::string end_text_;
};

}  // namespace lockstep
