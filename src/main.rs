//! Arguments to command to exit code. (Stands in for the lead's: only the launcher so far.)

fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == executor::slots::LAUNCH) {
        let error = executor::slots::launch(args);
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("launcher: {error}\n").as_bytes(),
        );
        return 127.into();
    }
    2.into()
}
