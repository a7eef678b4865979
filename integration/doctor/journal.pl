# journal.pl SOCKET FILE: plays journald or a syslog daemon: each datagram that reaches SOCKET is appended to FILE, decoded, with a line
# `--` after it. A value of the binary form stands on its field's line; its control characters are shown as `?`, which no honest one has.
# `journal.pl SOCKET --full` binds the socket, fills its queue and never reads.
use strict;
use warnings;
use Socket;
my ($path, $file) = @ARGV;
socket(my $server, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
unlink $path;
bind($server, pack_sockaddr_un($path)) or die "bind $path: $!";
chmod 0666, $path;
if ($file eq '--full') {
  socket(my $client, AF_UNIX, SOCK_DGRAM, 0) or die;
  connect($client, pack_sockaddr_un($path)) or die "connect: $!";
  use constant MSG_DONTWAIT => 0x40;
  1 while defined send($client, 'x' x 1000, MSG_DONTWAIT);
  sleep 600;
  exit;
}
open(my $out, '>>', $file) or die "$file: $!";
$out->autoflush(1) if $out->can('autoflush');
select($out); $| = 1;
while (defined recv($server, my $data, 1 << 20, 0)) {
  my $text = '';
  if ($data =~ /^</) { ($text = $data) =~ s/[[:cntrl:]]/?/g; $text .= "\n"; $data = ''; }
  while (length $data) {
    $data =~ s/^([A-Z0-9_]*)(=|\n)// or do { $text .= "BROKEN\n"; last };
    my ($name, $value) = ($1, '');
    if ($2 eq '=') { $data =~ s/^([^\n]*)\n// or die; $value = $1; }
    else {
      my $length = unpack('Q<', substr($data, 0, 8, ''));
      $value = substr($data, 0, $length, '');
      substr($data, 0, 1, '') eq "\n" or $text .= "BROKEN\n";
    }
    $value =~ s/[[:cntrl:]]/?/g;
    $text .= "$name=$value\n";
  }
  print $out "$text--\n";
}
