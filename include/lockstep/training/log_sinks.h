// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/core/logging.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

/// @file
/// Log sinks for `set_log_sink` that write to files and servers by a `BackgroundWriter`.
///
/// A call hands over the line and returns. A destination that cannot be reached keeps lines up to a
/// bound, and tries again and again. What comes while the bound is reached is lost and counted; the
/// number is written in the place of the lost lines when there is room. In a fork of the process,
/// lines go to stderr, and so do lines for servers while the process leaves by `exit`, unless there
/// is a spool file.
///
/// A writer keeps the destination of a sink, with its spool, as long as the writer lives: a sink
/// that replaces another one needs another writer, or a spool of its own.
///
/// Thread-safety: sinks may be called by several threads.

namespace lockstep::training {

class BackgroundWriter;

/// Values by their names.
using LogAttributes = std::map<std::string, std::string>;

/// What `file_log` is told.
struct FileLogOptions {
  /// Stands in front of each message: "rank 3".
  TORCH_ARG(std::string, prefix) = {};
  /// Bytes at which the file is renamed and a new one begun; 0: never.
  TORCH_ARG(std::int64_t, rotate_bytes) = std::int64_t{64} << 20;
  /// How many renamed files are kept: `path.1` is the newest.
  TORCH_ARG(std::int64_t, rotated_files) = 5;
};

/// How messages reach a syslog server.
enum class SyslogTransport {
  Local,  ///< the socket of this host
  Udp,    ///< one datagram a message; what the network loses is lost, and nobody knows
  Tcp,    ///< with the length in front of each message (RFC 6587)
};

/// What remote sinks do while their server is away.
struct SpoolOptions {
  /// Bytes of lines that are kept in memory.
  TORCH_ARG(std::int64_t, memory_bytes) = std::int64_t{4} << 20;
  /// A file for lines that could not be sent within a second, which the next run sends. One file a
  /// process. Empty: none.
  TORCH_ARG(std::filesystem::path, file) = {};
  /// The most that the file has.
  TORCH_ARG(std::int64_t, file_bytes) = std::int64_t{64} << 20;
};

/// What `syslog_log` is told.
struct SyslogOptions {
  /// See `SyslogTransport`.
  TORCH_ARG(SyslogTransport, transport) = SyslogTransport::Local;
  /// Of `Local`: the path of a socket of datagrams. Otherwise "host:port" or "[address]:port".
  TORCH_ARG(std::string, server) = "/dev/log";
  /// From 0 to 23; 1: programs of users.
  TORCH_ARG(int, facility) = 1;
  /// The name of the program, of printable ASCII: 1 to 48 characters.
  TORCH_ARG(std::string, application) = "lockstep";
  /// Longer messages are cut, and say so: from 480 to 1048576 bytes over TCP, to 65000 otherwise.
  /// Servers take 2048 over UDP as a rule.
  TORCH_ARG(std::int64_t, message_bytes) = 8192;
  /// How long a server may leave bytes unanswered before the connection is given up.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::seconds(10);
  /// See `SpoolOptions`.
  TORCH_ARG(SpoolOptions, spool) = {};
};

/// What `otlp_log` is told.
struct OtlpOptions {
  /// Of the collector; lines go to `endpoint`/v1/logs.
  TORCH_ARG(std::string, endpoint) = "http://localhost:4318";
  /// The attribute `service.name` of all lines.
  TORCH_ARG(std::string, service_name) = "lockstep";
  /// More attributes of all lines: `{"rank", "3"}`.
  TORCH_ARG(LogAttributes, attributes) = {};
  /// More headers of the requests, such as `{"Authorization", "Bearer ..."}`.
  TORCH_ARG(LogAttributes, headers) = {};
  /// Lines of a request, at most. One has about a mebibyte of text at most.
  TORCH_ARG(std::int64_t, batch_lines) = 512;
  /// How long a request may take.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::seconds(10);
  /// See `SpoolOptions`.
  TORCH_ARG(SpoolOptions, spool) = {};
};

/// Appends lines to a file, with the time (UTC) and the level:
/// `2026-01-31T12:00:00.000001Z warning rank 3: text`. Control characters are escaped, so that a
/// remark is one line. One process a file. Sinks of one file have the same options.
/// Owns: a share of the writer, as do the other sinks.
/// Throws: `c10::Error` for options out of range, and for a file that is written with others.
[[nodiscard]] LOCKSTEP_API logging::Sink file_log(std::shared_ptr<BackgroundWriter> writer,
                                                  const std::filesystem::path& path,
                                                  const FileLogOptions& options = {});

/// Sends lines to a syslog server in the format of RFC 5424. There is no answer in this protocol: a
/// line counts as written when this host's system has it (`Local`, `Udp`), or the system of the
/// server (`Tcp`). A connection that breaks leads to lines that are sent twice rather than lost.
///
/// The server's name is looked up in the background.
/// Throws: `c10::Error` for options out of range, and for a spool file that cannot be opened, that
/// another process uses, or that is no such file.
[[nodiscard]] LOCKSTEP_API logging::Sink syslog_log(std::shared_ptr<BackgroundWriter> writer,
                                                    const SyslogOptions& options = {});

/// Posts lines as JSON to a collector of OpenTelemetry. A line counts as written when the collector
/// has said so. Lines that the collector refuses for good are lost and counted.
/// Throws: as `syslog_log`.
/// Source: https://opentelemetry.io/docs/specs/otlp, OTLP/HTTP with JSON.
[[nodiscard]] LOCKSTEP_API logging::Sink otlp_log(std::shared_ptr<BackgroundWriter> writer,
                                                  const OtlpOptions& options = {});

/// Gives each line to all of these.
/// Throws: `c10::Error` for an empty sink.
[[nodiscard]] LOCKSTEP_API logging::Sink all_of(std::vector<logging::Sink> sinks);

}  // namespace lockstep::training
